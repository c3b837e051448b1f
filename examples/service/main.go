// Command service is the program that the files in deploy start: an account in
// a file, in Postgres or in Firestore, its admin page, and a clean hand-over at
// SIGTERM. Any number of replicas may run; one is connected.
//
// It reads its settings from the environment:
//
//	STORE             local:FILE, postgres:ACCOUNT or firestore:ROOT; default local:wa.db
//	DATABASE_URL      of Postgres
//	GOOGLE_CLOUD_PROJECT  of Firestore; default: the project of the credentials
//	PORT              of the admin page and the probes; default 8080
//	ADMIN_TOKEN       required, 16 bytes or more: opens the page
//	SHUTDOWN_TIMEOUT  of each step of a hand-over; default 5s. A platform must wait
//	                  for stability.Settings.HandOver before it kills.
//
// With -probe PATH it asks a running service on this machine instead, up to 60
// times a second apart (-tries sets another number). Its exit code is 0 once
// the answer is 200: a health check for images without a shell.
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
	"strings"
	"syscall"
	"time"

	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/adminhttp"
	"github.com/wastability/wastability/stability/firestorebackend"
	"github.com/wastability/wastability/stability/localbackend"
	"github.com/wastability/wastability/stability/postgresbackend"
)

func main() {
	path := flag.String("probe", "", "ask the running service for this path, for example /ready?standby=ok")
	tries := flag.Int("tries", 60, "how often to ask, a second apart")
	simulated := flag.Bool("simulate", false, "be a replica of a test")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := func(ctx context.Context) error {
		return serve(ctx, stability.WithObserver(func(e stability.Event) { slog.Info(e.String()) }))
	}
	switch {
	case *path != "":
		run = func(ctx context.Context) error { return probe(ctx, *path, *tries) }
	case *simulated:
		run = replica
	}
	if err := run(ctx); err != nil {
		slog.Error("ended", "error", err)
		os.Exit(1)
	}
}

// port is where the admin page is.
func port() string { return cmp.Or(os.Getenv("PORT"), "8080") }

// probe waits until the service on this machine answers path with 200.
func probe(ctx context.Context, path string, tries int) error {
	client := http.Client{Timeout: 2 * time.Second}
	for n := 1; ; n++ {
		resp, err := client.Get("http://127.0.0.1:" + port() + path)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("%s is answered with %d", path, resp.StatusCode)
		}
		if n >= tries {
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// serve stands by until it may hold the account, answers, and hands over when
// ctx ends. The admin page is there all the while.
func serve(ctx context.Context, opts ...stability.Option) (err error) {
	if text := os.Getenv("SHUTDOWN_TIMEOUT"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("SHUTDOWN_TIMEOUT: %w", err)
		}
		opts = append(opts, stability.WithShutdownTimeout(d))
	}
	backend, err := open(ctx, cmp.Or(os.Getenv("STORE"), "local:wa.db"))
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
	listener, err := net.Listen("tcp", ":"+port())
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

// open opens the account at where.
func open(ctx context.Context, where string) (stability.Backend, error) {
	kind, name, _ := strings.Cut(where, ":")
	switch kind {
	case "local":
		return localbackend.Open(name)
	case "postgres":
		db, err := postgresbackend.Open(ctx, os.Getenv("DATABASE_URL"))
		if err != nil {
			return stability.Backend{}, err
		}
		closeDB := func() error { db.Close(); return nil }
		if err := db.Migrate(ctx); err != nil {
			return stability.Backend{}, errors.Join(err, closeDB())
		}
		b, err := db.Account(name)
		return closing(b, err, closeDB)
	case "firestore":
		client, err := firestorebackend.NewClient(context.WithoutCancel(ctx), os.Getenv("GOOGLE_CLOUD_PROJECT"))
		if err != nil {
			return stability.Backend{}, err
		}
		b, err := firestorebackend.New(client, firestorebackend.WithRoot(name))
		return closing(b, err, client.Close)
	}
	return stability.Backend{}, fmt.Errorf("STORE is %q: set it to local:FILE, postgres:ACCOUNT or firestore:ROOT", where)
}

// closing has the backend close what it was made from.
func closing(b stability.Backend, err error, also func() error) (stability.Backend, error) {
	if err != nil {
		return b, errors.Join(err, also())
	}
	own := b.Close
	b.Close = func() error { return errors.Join(own(), also()) }
	return b, nil
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
