// Command standby is a service of which two processes may run at once, as in a
// rolling deploy: one holds the connection, the other waits. SIGTERM ends a
// process gracefully: it finishes the answers it has begun, and leaves the
// rest for the other one, which is connected within two seconds.
//
// Start it twice in one directory, or let -simulate do that against a
// simulated service, without a phone.
package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/localbackend"
)

func main() {
	simulated := flag.Bool("simulate", false, "start two processes against a simulated service; needs no phone and no network")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := func(ctx context.Context) error {
		return serve(ctx, "wastability.db", stability.WithQR(stability.PrintQR(os.Stdout)),
			stability.WithObserver(func(e stability.Event) { slog.Info(e.String()) }))
	}
	if *simulated {
		run = simulate
	}
	if err := run(ctx); err != nil {
		slog.Error("ended", "error", err)
		os.Exit(1)
	}
}

// serve stands by until it may hold the account in the file path, answers, and
// hands over when ctx ends.
func serve(ctx context.Context, path string, opts ...stability.Option) error {
	backend, err := localbackend.Open(path)
	if err != nil {
		return err
	}
	manager, err := stability.New(append(opts, stability.WithBackend(backend))...)
	if err != nil {
		return errors.Join(err, backend.Close())
	}
	err = manager.Run(ctx, func(_ context.Context, client *whatsmeow.Client) error {
		client.AddEventHandlerWithSuccessStatus(func(evt any) bool { return answer(client, evt) })
		return nil
	})
	return errors.Join(err, manager.Close(context.Background()))
}

// answer returns false when the message could not be answered: then it is not
// acknowledged, and the service delivers it again, to whoever is connected.
func answer(client *whatsmeow.Client, evt any) bool {
	msg, ok := evt.(*events.Message)
	if !ok || msg.Info.IsFromMe || msg.Info.IsGroup || msg.Message.GetConversation() == "" {
		return true
	}
	reply := &waE2E.Message{Conversation: proto.String("You said: " + msg.Message.GetConversation())}
	_, err := client.SendMessage(context.Background(), msg.Info.Chat, reply)
	return err == nil
}
