package wasim_test

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// A bot of your own, a simulated phone that scans its QR code, and a simulated
// contact that writes to it.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	service := wasim.New()
	account := service.NewAccount("491700000001")

	bot := whatsmeow.NewClient(wasim.NewMemoryDevice(), nil)
	bot.ManualHistorySyncDownload = true
	client := &http.Client{Transport: service.Transport(), Timeout: 15 * time.Second}
	bot.SetWebsocketHTTPClient(client)
	bot.SetPreLoginHTTPClient(client)
	online, heard := make(chan bool, 1), make(chan string, 1)
	bot.AddEventHandler(func(evt any) {
		switch e := evt.(type) {
		case *events.QR:
			_ = account.Phone().Scan(e.Codes[0])
		case *events.Connected:
			online <- true
		case *events.Message:
			heard <- e.Message.GetConversation()
		}
	})
	if err := bot.Connect(); err != nil {
		fmt.Println(err)
		return
	}
	<-online

	bob, err := service.NewContact(ctx, "491700000002")
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err = bob.Send(ctx, account.JID(), "hello"); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("the bot heard:", <-heard)
	fmt.Println("devices:", len(account.Devices()))

	bot.Disconnect()
	service.Close()
	// Output:
	// the bot heard: hello
	// devices: 1
}
