// Command firestore is a bot for a platform without disks, such as Cloud Run,
// Railway or Kubernetes. The session lives in Firestore, any number of
// replicas may run at once, and one of them is connected. A rolling deploy is
// nothing special: SIGTERM ends a replica gracefully, and another goes on.
//
// It reads its settings from the environment:
//
//	PORT                  of the admin page and its API; default 8080
//	ADMIN_TOKEN           required, 16 bytes or more: opens the page
//	GOOGLE_CLOUD_PROJECT  default: the project of the credentials
//	FIRESTORE_DATABASE    default (default)
//	FIRESTORE_ROOT        default wa_metrics/longrun; one per account
//
// With -simulate -emulator it needs nothing of that: it starts Firestore's
// emulator, a simulated service, and replicas that are deployed and killed.
// Either alone works too: -simulate with a real Firestore tries the project and
// its permissions without a phone.
//
// With -load N it measures one account on this Firestore: N messages of a
// simulated service come as fast as the account takes them. It prints messages a
// second, how long commits take, and errors. Each message costs about 7 writes;
// they stand under a root of their own, which is removed at the end.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"cloud.google.com/go/firestore"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/adminhttp"
	"github.com/wastability/wastability/stability/firestorebackend"
)

func main() {
	simulated := flag.Bool("simulate", false, "run replicas against a simulated WhatsApp service; needs no phone")
	emulated := flag.Bool("emulator", false, "start Firestore's emulator, which is on this machine, and use it")
	messages := flag.Int("load", 0, "measure one account with so many messages; needs no phone")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := func(ctx context.Context) error {
		return serve(ctx, stability.WithObserver(func(e stability.Event) { slog.Info(e.String()) }))
	}
	if *simulated {
		run = simulate
	}
	if *messages > 0 {
		run = func(ctx context.Context) error { return loadTest(ctx, *messages, os.Stdout) }
	}
	if *emulated {
		run = withEmulator(run)
	}
	if err := run(ctx); err != nil {
		slog.Error("ended", "error", err)
		os.Exit(1)
	}
}

// serve stands by until it may hold the account, answers, and hands over when
// ctx ends. The admin page is there all the while.
func serve(ctx context.Context, opts ...stability.Option) (err error) {
	client, err := newClient(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	backend, err := firestorebackend.New(client, firestorebackend.WithRoot(cmp.Or(os.Getenv("FIRESTORE_ROOT"), "wa_metrics/longrun")))
	if err != nil {
		return err
	}
	manager, err := stability.New(append(opts, stability.WithBackend(backend))...)
	if err != nil {
		return errors.Join(err, backend.Close())
	}
	defer func() { err = errors.Join(err, manager.Close(context.Background())) }()

	admin, err := adminhttp.New(manager, adminhttp.WithToken(os.Getenv("ADMIN_TOKEN")))
	if err != nil {
		return fmt.Errorf("ADMIN_TOKEN: %w", err)
	}
	listener, err := net.Listen("tcp", ":"+cmp.Or(os.Getenv("PORT"), "8080"))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: admin, ReadHeaderTimeout: 5 * time.Second}
	defer server.Close()
	go server.Serve(listener)

	return manager.Run(ctx, func(_ context.Context, client *whatsmeow.Client) error {
		client.AddEventHandlerWithSuccessStatus(func(evt any) bool { return answer(client, evt) })
		return nil
	})
}

// newClient makes a client with keepalives: a connection that falls silent is
// replaced long before the lease runs out.
func newClient(ctx context.Context) (*firestore.Client, error) {
	return firestorebackend.NewClient(context.WithoutCancel(ctx), os.Getenv("GOOGLE_CLOUD_PROJECT"),
		firestorebackend.WithDatabase(os.Getenv("FIRESTORE_DATABASE")))
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
