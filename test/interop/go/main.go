// Command mautrix-go PORT HS_TOKEN AS_TOKEN OUT is an appservice of mautrix-go that writes a line
// of JSON for each thing that it is handed.
package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"maunium.net/go/mautrix/appservice"
	"maunium.net/go/mautrix/event"
)

func main() {
	port, _ := strconv.Atoi(os.Args[1])
	as, err := appservice.CreateFull(appservice.CreateOpts{
		Registration: &appservice.Registration{ID: "irc", ServerToken: os.Args[2], AppToken: os.Args[3],
			// Without it, to-device messages are dropped, with a 200.
			SenderLocalpart: "ircbot", EphemeralEvents: true},
		HomeserverDomain: "gw.example", HomeserverURL: "http://127.0.0.1:1",
		HostConfig: appservice.HostConfig{Hostname: "127.0.0.1", Port: uint16(port)}})
	if err != nil {
		panic(err)
	}
	out, err := os.OpenFile(os.Args[4], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		panic(err)
	}
	write := func(kind string, value any) {
		line, err := json.Marshal([]any{kind, value})
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(out, "%s\n", line)
	}
	go as.Start()
	for {
		if c, err := net.Dial("tcp", as.Host.Address()); err == nil {
			c.Close()
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Println("receiver: listening")
	for {
		select {
		case e := <-as.ToDeviceEvents:
			write("to_device", map[string]any{"type": e.Type.Type, "sender": e.Sender,
				"to_user_id": e.ToUserID, "to_device_id": e.ToDeviceID, "content": e.Content.Raw})
		case e := <-as.Events:
			kind := "events"
			if e.Type.Class == event.EphemeralEventType {
				kind = "ephemeral"
			}
			value := map[string]any{"type": e.Type.Type, "room_id": e.RoomID, "content": e.Content.Raw}
			if e.ID != "" {
				value["sender"], value["event_id"] = e.Sender, e.ID
			}
			write(kind, value)
		case l := <-as.DeviceLists:
			write("device_lists", l)
		case c := <-as.OTKCounts:
			write("device_one_time_keys_count", map[string]any{c.UserID.String(): map[string]any{
				c.DeviceID.String(): map[string]int{"signed_curve25519": c.SignedCurve25519}}})
		}
	}
}
