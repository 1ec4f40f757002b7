"""Runs the gateway's tests: each file in a process of its own, three at a time.

run.py [TEST...]: a test is a file's name without test_ and .py, or FILE.CLASS.METHOD."""
import concurrent.futures
import glob
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def run(name):
    """Returns (ran, failed, output) of one file."""
    done = subprocess.run([sys.executable, '-m', 'unittest', '-b', 'test_' + name], cwd=HERE,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    ran = re.search(r'^Ran (\d+) test', done.stdout, re.M)
    failed = sum(int(n) for n in re.findall(r'(?:failures|errors)=(\d+)', done.stdout))
    ran = int(ran.group(1)) if ran else 0
    if ran == 0 or (done.returncode != 0 and failed == 0):
        failed = max(failed, 1)
    return ran, failed, done.stdout


def main():
    os.environ['B'] = os.path.abspath(os.environ.get('B', 'build'))
    names = sys.argv[1:] or sorted(os.path.basename(p)[5:-3] for p in
                                   glob.glob(os.path.join(HERE, 'test_*.py')))
    passed = failed = 0
    # What measures runs alone, and what only waits runs first.
    alone = [n for n in names if n.startswith('load')]
    beside = sorted((n for n in names if n not in alone), key=lambda n: not n.startswith('slow'))
    for group, workers in ((beside, 3), (alone, 1)):
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            for name, (ran, bad, output) in zip(group, pool.map(run, group)):
                passed += max(ran - bad, 0)
                failed += bad
                if 'MEASURE' in os.environ:
                    print(''.join(re.findall(r'^load: .*\n', output, re.M)), end='', flush=True)
                if bad:
                    print('---- %s ----\n%s' % (name, output), flush=True)
    print('gateway: %d passed, %d failed' % (passed, failed))
    return 1 if failed or not passed else 0


sys.exit(main())
