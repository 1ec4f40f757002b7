# Makefile - builds, tests and checks msc4203.h. For GNU make. `make help` lists what it does.
#
# The library needs no build: copy msc4203.h. Everything that is built here goes under build/.
# `make all`, `make demo` and `make test` need a C99 compiler, make, libc and the standard
# utilities (sh, awk, sed, nm). The other checks need more tools and say so when one is missing;
# .ci/run installs all of them on a Debian machine.
#
#   make CC=clang CFLAGS=-O3 test        another compiler, other options
#   make LIBFLAGS=-DMSC4203_NO_SIMD test     options of the library
#   make TEST_SCALE=10 TEST_SEED=7 test      longer suites, another seed

.SUFFIXES:

CC = cc
CXX = c++
CFLAGS = -O2
LDFLAGS =
LIBFLAGS =
STD = -std=c99
# Put before each test program: an emulator, a time limit.
RUN =
# Where `make install` puts files, and what it puts before that, for packages.
PREFIX = /usr/local
DESTDIR =

B = build
COMPILE = $(CC) $(STD) -I. $(CFLAGS) $(LIBFLAGS)

SUITES = $(sort $(patsubst test/test_%.c,%,$(wildcard test/test_*.c)))
# The fuzz targets, each replaying the seeds.
REPLAYS = $(sort $(patsubst fuzz/%.c,%,$(wildcard fuzz/fuzz_*.c)))
# Checks that are scripts. All three kinds print `NAME: N passed, N failed`.
SCRIPTS = header stack examples
TESTS = $(SUITES:%=$(B)/test/test_%) $(REPLAYS:%=$(B)/test/%)
# Programs; the queues over databases need those, and have no main().
EXAMPLES = $(patsubst example/%.c,$(B)/%,$(filter-out example/queue_%.c,$(wildcard example/*.c)))
LOGS = $(B)/log
SCRIPT_ENV = B='$(B)' CC='$(CC)' CXX='$(CXX)' MAKE='$(MAKE)'
# Two at a time, unless the caller has already said how many.
TWO = $(if $(findstring jobserver,$(MAKEFLAGS)),,-j2)

all: $(B)/msc4203.o $(EXAMPLES) ## The library as an object, and the example programs

# Remembers the compiler and its options, so that everything is built anew when they change.
$(B)/flags: force
	@mkdir -p $(B)
	@echo '$(COMPILE) $(LDFLAGS)' >$@.new; cmp -s $@.new $@ || cp $@.new $@; rm $@.new

$(B)/msc4203.o: msc4203.c msc4203.h $(B)/flags
	$(COMPILE) -c -o $@ msc4203.c

$(EXAMPLES): $(B)/%: example/%.c $(B)/msc4203.o $(wildcard example/*.h) msc4203.h $(B)/flags
	$(COMPILE) -o $@ $< $(B)/msc4203.o $(LDFLAGS)

$(SUITES:%=$(B)/test/test_%): $(B)/test/%: test/%.c $(B)/msc4203.o $(wildcard test/*.h) msc4203.h \
    $(B)/flags
	@mkdir -p $(B)/test
	$(COMPILE) -o $@ $< $(B)/msc4203.o $(LDFLAGS)

$(REPLAYS:%=$(B)/test/%): $(B)/test/%: fuzz/%.c $(B)/msc4203.o $(wildcard fuzz/*.[ch] test/*.h) \
    msc4203.h $(B)/flags
	@mkdir -p $(B)/test
	$(COMPILE) -o $@ fuzz/driver.c $< $(B)/msc4203.o $(LDFLAGS)

$(B)/test/seeds: fuzz/seeds.sh
	sh fuzz/seeds.sh $@

tests: $(TESTS) $(EXAMPLES) $(B)/test/seeds

demo: $(EXAMPLES) ## Sends 300 real messages through a gateway and a bridge that are killed on the way
	@$(RUN) $(B)/demo

test: ## Runs all tests; needs cc, make and libc; under a minute
	@rm -rf $(LOGS); mkdir -p $(LOGS)
	@$(MAKE) -s -k $(TWO) $(SUITES:%=run-%) $(REPLAYS:%=run-%) $(SCRIPTS:%=run-%); \
	sh test/run.sh sum $(LOGS) $(SUITES) $(REPLAYS) $(SCRIPTS)

# The suites alone, for the builds of other targets (sanitizers, emulators, coverage).
suites:
	@rm -rf $(LOGS); mkdir -p $(LOGS)
	@$(MAKE) -s -k $(TWO) $(SUITES:%=run-%) $(REPLAYS:%=run-%); \
	sh test/run.sh sum $(LOGS) $(SUITES) $(REPLAYS)

# A suite may call the tool.
$(SUITES:%=run-%): run-%: $(B)/test/test_% $(EXAMPLES)
	@sh test/run.sh one $(LOGS) $* $(RUN) $(B)/test/test_$*

$(REPLAYS:%=run-%): run-%: $(B)/test/% $(B)/test/seeds
	@sh test/run.sh one $(LOGS) $* $(RUN) $(B)/test/$* $(B)/test/seeds/$*

run-header: $(B)/msc4203.o
	@$(SCRIPT_ENV) sh test/run.sh one $(LOGS) header sh test/header.sh

run-stack run-examples: run-%:
	@$(SCRIPT_ENV) sh test/run.sh one $(LOGS) $* sh test/$*.sh

soak: ## Runs the tests over and over, longer and with other seeds, for an hour (SOAK_SECONDS)
	@MAKE='$(MAKE)' sh test/soak.sh

sim: $(B)/test/test_sim ## Simulates servers, appservices and crashes, 200,000 seeds (TEST_SCALE)
	@TEST_SCALE=$${TEST_SCALE:-50} $(RUN) $(B)/test/test_sim

fuzz: ## Runs each fuzz target for a minute
	@$(SCRIPT_ENV) sh fuzz/run.sh

bench: $(B)/gateway $(B)/appservice ## Measures speed against other libraries, and draws the README's table and pictures
	@$(SCRIPT_ENV) sh test/bench/run.sh

instructions: ## Counts the instructions that reading takes for each byte, with callgrind
	@$(SCRIPT_ENV) sh test/bench/instructions.sh

size: ## Measures code and stack for small machines and for x86-64
	@$(SCRIPT_ENV) sh test/bench/size.sh

test-mcu: ## Runs the tests on an emulated microcontroller without an operating system
	@$(SCRIPT_ENV) sh test/mcu/run.sh

test-sqlite: ## Runs the contract test on the queue over SQLite
	@$(SCRIPT_ENV) sh test/sqlite/run.sh

test-littlefs: ## Runs the log on littlefs, on an emulated flash chip that loses its power
	@$(SCRIPT_ENV) sh test/littlefs/run.sh

GATEWAY = $(B)/gateway $(B)/appservice $(B)/msc4203

test-gateway: $(GATEWAY) ## Tests the gateway over real sockets; needs python3; two minutes
	@$(SCRIPT_ENV) sh test/gateway/run.sh

torture: $(GATEWAY) ## A minute of failures and kills: everything must arrive exactly once
	@$(SCRIPT_ENV) sh test/gateway/run.sh torture

mutants: ## Puts faults into a copy of the library: the tests must catch each
	@MAKE='$(MAKE)' sh test/mutants.sh

bindings: ## Calls the library from other languages, without a C compiler
	@$(SCRIPT_ENV) sh test/bindings/run.sh

interop: $(EXAMPLES) ## Exchanges messages with real homeservers, bridges and clients (PEER=NAME: with one)
	@$(SCRIPT_ENV) sh test/interop/run.sh

lint: ## Compiles everything at the compilers' strictest, and runs the static analysers
	@MAKE='$(MAKE)' bash test/lint.sh

sanitize: ## Runs the tests under ASan, UBSan and MSan
	@MAKE='$(MAKE)' sh test/sanitize.sh

cross: ## Runs the tests on emulated big-endian, 32-bit and ARM machines; compiles for others
	@MAKE='$(MAKE)' sh test/cross.sh

coverage: ## Measures which lines and branches of the library the tests reach
	@MAKE='$(MAKE)' sh test/coverage.sh

INSTALL = B='$(B)' PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' sh example/install/install.sh

install: $(GATEWAY) ## Installs programs, header, manual pages and units below PREFIX, /usr/local
	@$(INSTALL) install

uninstall: ## Removes what `make install` with the same PREFIX and DESTDIR has put there
	@$(INSTALL) uninstall

test-install: ## Installs into a temporary folder, checks what is there, and uninstalls
	@$(SCRIPT_ENV) sh test/install.sh

test-proxies: $(GATEWAY) ## Runs the gateway behind nginx and Caddy, with TLS; a minute and a half
	@$(SCRIPT_ENV) sh test/gateway/proxies.sh

clean: ## Removes build/
	rm -rf build

help: ## Lists these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

force:

.PHONY: force all tests demo test suites soak sim fuzz bench instructions size test-mcu \
	test-sqlite test-littlefs test-gateway torture mutants bindings interop lint sanitize cross \
	coverage install uninstall test-install test-proxies clean help run-header run-stack \
	run-examples \
	$(SUITES:%=run-%) $(REPLAYS:%=run-%)
