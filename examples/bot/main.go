// Command bot answers every text message of a single chat with the same text.
// It is what you copy: the session lives in one file, the connection looks
// after itself.
// With -simulate it runs against a simulated service, without a phone.
package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/localbackend"
)

func main() {
	simulated := flag.Bool("simulate", false, "run against a simulated service; needs no phone and no network")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	s := newDisplay(os.Stdout)
	if s.live && isTerminal(os.Stderr) && !*simulated { // the log goes above the status line
		slog.SetDefault(slog.New(slog.NewTextHandler(s, nil)))
	}
	run := func(ctx context.Context) error {
		return serveOn(ctx, s, "wastability.db", stability.WithQR(stability.PrintQR(s)))
	}
	if *simulated {
		run = simulate
	}
	if err := run(ctx); err != nil {
		slog.Error("the bot stopped", "error", err)
		os.Exit(1)
	}
}

// serve keeps the account in the file path connected until ctx ends.
func serve(ctx context.Context, path string, opts ...stability.Option) error {
	return serveOn(ctx, nil, path, opts...)
}

// serveOn is serve with a status line on s.
func serveOn(ctx context.Context, s *display, path string, opts ...stability.Option) error {
	backend, err := localbackend.Open(path)
	if err != nil {
		return err
	}
	manager, err := stability.New(append(opts, stability.WithBackend(backend))...)
	if err != nil {
		return errors.Join(err, backend.Close())
	}
	watch, stop := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() { s.follow(watch, manager) })
	err = manager.Run(ctx, func(_ context.Context, client *whatsmeow.Client) error {
		client.AddEventHandlerWithSuccessStatus(func(evt any) bool { return answer(client, evt) })
		return nil
	})
	err = errors.Join(err, manager.Close(context.Background()))
	stop()
	watching.Wait()
	return err
}

// answer returns false when the message could not be answered: then it is not
// acknowledged, and the service delivers it again.
func answer(client *whatsmeow.Client, evt any) bool {
	msg, ok := evt.(*events.Message)
	if !ok || msg.Info.IsFromMe || msg.Info.IsGroup || msg.Message.GetConversation() == "" {
		return true
	}
	reply := &waE2E.Message{Conversation: proto.String("You said: " + msg.Message.GetConversation())}
	_, err := client.SendMessage(context.Background(), msg.Info.Chat, reply)
	return err == nil
}
