package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"go.mau.fi/whatsmeow"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/examples/internal/demo"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/firestorebackend"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// window is how many messages wait for an answer at once: a busy account, not
// an idle one.
const window = 16

// loadTest measures one account on this Firestore: n messages of a simulated
// service come as fast as the account takes them, and each is answered. Its
// documents are removed at the end.
func loadTest(ctx context.Context, n int, out io.Writer) (err error) {
	client, err := newClient(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	backend, err := firestorebackend.New(client, firestorebackend.WithRoot("loads/"+rand.Text()))
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if left := backend.Destroy(ctx); left != nil {
			err = errors.Join(err, fmt.Errorf("documents are left under loads/: %w", left))
		}
	}()
	l, err := load(ctx, backend, n)
	if l != nil {
		l.tell(out)
	}
	return err
}

// measured is what a load came to.
type measured struct {
	messages int // that were answered
	took     time.Duration
	answers  []time.Duration // from the service to the answer
	commits  *timed
}

// load plays n messages against the backend, which it closes.
func load(ctx context.Context, backend stability.Backend, n int) (_ *measured, err error) {
	commits := &timed{KV: backend.Auth, failed: make(map[string]int)}
	backend.Auth = commits
	world, err := demo.New(ctx)
	if err != nil {
		return nil, errors.Join(err, backend.Close())
	}
	defer world.Close()
	manager, err := stability.New(stability.WithBackend(backend), stability.WithTransport(world.Service.Transport("load")),
		stability.WithLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))),
		stability.WithQR(func(q stability.QR) { _ = world.Account.Phone().Scan(q.Code) }))
	if err != nil {
		return nil, errors.Join(err, backend.Close())
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var running sync.WaitGroup
	defer func() {
		cancel(nil)
		running.Wait()
		err = errors.Join(err, manager.Close(context.Background()))
	}()
	running.Go(func() {
		cancel(manager.Run(ctx, func(_ context.Context, client *whatsmeow.Client) error {
			client.AddEventHandlerWithSuccessStatus(func(evt any) bool { return answer(client, evt) })
			return nil
		}))
	})
	if err := demo.Until(ctx, func() bool {
		devices := world.Account.Devices()
		return len(devices) > 0 && devices[len(devices)-1].Online()
	}); err != nil {
		return nil, err
	}

	answered := make(chan string, n)
	world.Ada.OnMessage(func(m wasim.Received) { answered <- strings.TrimPrefix(m.Text, "You said: ") })
	sent := make(map[string]time.Time, window)
	l := &measured{commits: commits}
	commits.reset() // the pairing is not what is measured
	begin := time.Now()
	defer func() { l.took = time.Since(begin) }()
	for i := 0; l.messages < n; {
		if i < n && len(sent) < window {
			text := fmt.Sprintf("message %d", i+1)
			sent[text] = time.Now()
			if _, err := world.Ada.Send(ctx, world.Account.JID(), text); err != nil {
				return l, err
			}
			i++
			if len(answered) == 0 {
				continue
			}
		}
		select {
		case text := <-answered:
			if at, waits := sent[text]; waits {
				l.answers = append(l.answers, time.Since(at))
				l.messages++
				delete(sent, text)
			}
		case <-time.After(2 * time.Minute):
			return l, fmt.Errorf("%d of %d messages were answered; the next was not within two minutes", l.messages, n)
		case <-ctx.Done():
			return l, context.Cause(ctx)
		}
	}
	return l, nil
}

// tell prints the measurement.
func (l *measured) tell(out io.Writer) {
	l.commits.mu.Lock()
	defer l.commits.mu.Unlock()
	second := func(n int) float64 { return float64(n) / max(l.took.Seconds(), 1e-9) }
	fmt.Fprintf(out, "%d messages came and were answered in %s, %d at a time: %.1f messages a second\n",
		l.messages, l.took.Round(100*time.Millisecond), window, second(l.messages))
	fmt.Fprintf(out, "  commits   %d, one at a time, %.1f a second: %s\n", len(l.commits.took), second(len(l.commits.took)), percentiles(l.commits.took))
	fmt.Fprintf(out, "  answers   from the service to the answer: %s\n", percentiles(l.answers))
	if len(l.commits.failed) == 0 {
		fmt.Fprintf(out, "  errors    none\n")
	}
	for _, what := range slices.Sorted(maps.Keys(l.commits.failed)) {
		fmt.Fprintf(out, "  errors    %d of the commits: %s\n", l.commits.failed[what], what)
	}
}

// percentiles of some durations.
func percentiles(d []time.Duration) string {
	if len(d) == 0 {
		return "none"
	}
	d = slices.Sorted(slices.Values(d))
	at := func(percent int) time.Duration {
		return d[min(len(d)*percent/100, len(d)-1)].Round(100 * time.Microsecond)
	}
	return fmt.Sprintf("median %s, 95 %% within %s, 99 %% within %s, longest %s", at(50), at(95), at(99), at(100))
}

// timed measures commits. Those that fail are repeated by the Manager.
type timed struct {
	authstore.KV
	mu     sync.Mutex
	took   []time.Duration // of those that succeeded
	failed map[string]int  // by what was wrong
}

func (k *timed) Commit(ctx context.Context, epoch int64, b authstore.Batch) error {
	begin := time.Now()
	err := k.KV.Commit(ctx, epoch, b)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		k.failed[class(err)]++
		return err
	}
	k.took = append(k.took, time.Since(begin))
	return nil
}

func (k *timed) reset() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.took, k.failed = nil, make(map[string]int)
}

// class is the error without what differs from one to the next.
func class(err error) string {
	for _, c := range []error{
		firestorebackend.ErrQuota, firestorebackend.ErrPermission, firestorebackend.ErrDatabaseNotFound, firestorebackend.ErrUnavailable,
		authstore.ErrFenced, context.DeadlineExceeded, context.Canceled,
	} {
		if errors.Is(err, c) {
			return c.Error()
		}
	}
	return err.Error()
}
