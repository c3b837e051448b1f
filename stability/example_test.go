package stability_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/memorybackend"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// A Manager needs a backend, and a way to show the code to scan. Everything else
// has a default.
func ExampleNew() {
	m, err := stability.New(
		stability.WithBackend(memorybackend.New().Backend()), // in your program: a file, Postgres or Firestore
		stability.WithQR(func(q stability.QR) { /* show q.Terminal() or q.PNG() */ }),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer m.Close(context.Background())
	fmt.Println(m.Status().Mode)

	_, err = stability.New()
	fmt.Println(err)
	// Output:
	// passive_lock_not_acquired
	// stability: no backend: pass WithBackend, for example with localbackend.Open("wa.db")
}

// Run does all of it. The service is a simulated one here; a program of yours
// leaves WithTransport out.
func ExampleManager_Run() {
	service := wasim.New()
	defer service.Close()
	account := service.NewAccount("491700000001")
	bob, err := service.NewContact(context.Background(), "491700000002")
	if err != nil {
		fmt.Println(err)
		return
	}
	m, err := stability.New(
		stability.WithBackend(memorybackend.New().Backend()),
		stability.WithTransport(service.Transport()),
		stability.WithLogger(slog.New(slog.DiscardHandler)),
		stability.WithQR(func(q stability.QR) { _ = account.Phone().Scan(q.Code) }), // the phone of this account
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	heard := make(chan string, 1)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ran := make(chan error, 1)
	go func() {
		ran <- m.Run(ctx, func(_ context.Context, c *whatsmeow.Client) error {
			c.AddEventHandlerWithSuccessStatus(func(evt any) bool {
				if msg, ok := evt.(*events.Message); ok {
					heard <- msg.Message.GetConversation()
				}
				return true // false: the message was not handled, and comes again
			})
			return nil
		})
	}()
	if _, err := m.WaitReady(ctx); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(m.Status().WA)
	if _, err := bob.Send(ctx, account.JID(), "hello"); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("heard:", <-heard)
	stop() // hands over
	fmt.Println(errors.Join(<-ran, m.Close(context.Background())))
	// Output:
	// CONNECTED
	// heard: hello
	// <nil>
}

// A host that keeps its own connect code tells the Manager of each end, and asks
// it what to do.
func ExampleManager_HandleDisconnected() {
	service := wasim.New()
	defer service.Close()
	account := service.NewAccount("491700000001")
	m, err := stability.New(
		stability.WithBackend(memorybackend.New().Backend()),
		stability.WithTransport(service.Transport()),
		stability.WithLogger(slog.New(slog.DiscardHandler)),
		stability.WithQR(func(q stability.QR) { _ = account.Phone().Scan(q.Code) }),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	defer m.Close(ctx)
	if err := m.Activate(ctx); err != nil { // waits for the lock
		fmt.Println(err)
		return
	}
	device, err := m.AuthState(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	client := whatsmeow.NewClient(device, m.Logger(nil))
	if err := m.Attach(client); err != nil {
		fmt.Println(err)
		return
	}
	connect := func(ctx context.Context) error { return client.ConnectContext(ctx) }
	ends := make(chan string, 1)
	client.AddEventHandler(func(evt any) {
		switch evt := evt.(type) {
		case *events.Connected:
			_ = m.HandleConnected(ctx)
		case *events.Disconnected, *events.StreamError, *events.StreamReplaced, *events.LoggedOut, *events.ManualLoginReconnect:
			decision, err := m.HandleDisconnected(ctx, evt)
			if err != nil {
				return
			}
			if _, failed := evt.(*events.StreamError); failed {
				ends <- fmt.Sprintf("%s: reconnect %v, attempt %d, in about a second: %v",
					decision.Reason, decision.ShouldReconnect, decision.RetryCount, decision.Delay < 2*time.Second)
			}
			m.ScheduleReconnect(decision, connect)
		}
	})
	first, err := m.Resume()
	if err != nil {
		fmt.Println(err)
		return
	}
	m.ScheduleReconnect(first, connect)
	if _, err := m.WaitReady(ctx); err != nil {
		fmt.Println(err)
		return
	}
	service.Fault(wasim.StreamError("500")).For(account.JID()).Now()
	fmt.Println(<-ends)
	if _, err := m.WaitReady(ctx); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(m.Status().WA)
	// Output:
	// bad_session: reconnect true, attempt 1, in about a second: true
	// CONNECTED
}

// Everything that is stored is sealed with a key of yours. Without the key
// nothing can be read, and nothing is lost.
func ExampleWithAEAD() {
	service := wasim.New()
	defer service.Close()
	phone := service.NewAccount("491700000001").Phone()
	account := memorybackend.New()
	manager := func(opts ...stability.Option) *stability.Manager {
		m, err := stability.New(append(opts,
			stability.WithBackend(account.Backend()), stability.WithTransport(service.Transport()),
			stability.WithLogger(slog.New(slog.DiscardHandler)),
			stability.WithQR(func(q stability.QR) { _ = phone.Scan(q.Code) }),
		)...)
		if err != nil {
			panic(err)
		}
		return m
	}
	seal := stability.WithAEAD(authstore.NewAESGCM([32]byte{1, 2, 3})) // from your secret store
	ctx := context.Background()

	m := manager(seal)
	ran := make(chan error, 1)
	go func() { ran <- m.Run(ctx, nil) }()
	_, err := m.WaitReady(ctx)
	fmt.Println("paired:", err == nil)
	_ = m.Close(ctx)
	<-ran

	for _, opts := range [][]stability.Option{nil, {stability.WithAEAD(authstore.NewAESGCM([32]byte{9}))}, {seal}} {
		m := manager(opts...)
		err := m.Activate(ctx)
		if err == nil {
			_, err = m.AuthState(ctx)
		}
		fmt.Println(errors.Is(err, authstore.ErrSealed), errors.Is(err, authstore.ErrWrongKey), err == nil)
		_ = m.Close(ctx)
	}
	// Output:
	// paired: true
	// true false false
	// false true false
	// false false true
}
