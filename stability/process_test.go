//go:build linux || darwin

package stability_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/localbackend"
	"github.com/wastability/wastability/stability/stabilitytest/child"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// The tests with real processes run the test binary again: TestMain hands over
// to playPart when partEnv holds what to play.
const partEnv = "WASTABILITY_STABILITY_PART"

// part is a host in a process of its own.
type part struct {
	Service wasim.Endpoint
	File    string // a localbackend
	Served  string // or the address of a store that the test serves
	Record  string // each handled message, synced
	Lease   time.Duration
	Peer    string // writes to it all the time
	Moody   bool   // its handler refuses some messages, and panics at others
	Exits   string // its handler calls os.Exit at this text
}

func playPart() bool { return child.Play(partEnv, part.play) || child.Play(liveEnv, live.play) }

// play runs until standard input ends. What it says on standard output is a
// word and a text per line.
func (p part) play() error {
	var mu sync.Mutex
	say := func(word string, text any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(word, text)
	}
	signal.Ignore(syscall.SIGXFSZ)
	b, err := p.backend()
	if err != nil {
		return err
	}
	f := &freezing{KV: b.Auth}
	if p.Served != "" {
		b.Auth = f
	}
	transport, err := p.Service.Transport("child")
	if err != nil {
		return err
	}
	record, err := os.OpenFile(p.Record, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	opts := []stability.Option{
		stability.WithBackend(b), stability.WithTransport(transport), stability.WithLogger(logger()),
		stability.WithReconnect(reconnect.Policy{InitialDelay: 50 * time.Millisecond, MaxDelay: time.Second}),
		stability.WithAuthStoreOptions(authstore.WithOutagePatience(500 * time.Millisecond)),
		stability.WithQR(func(q stability.QR) { say("qr", q.Code) }),
		stability.WithObserver(func(e stability.Event) { say(string(e.Kind), e.Reason) }),
	}
	if p.Lease > 0 {
		opts = append(opts, stability.WithLockOptions(lock.WithLease(p.Lease)))
	}
	if p.Moody { // it is killed again and again before it has logged in, which is a loop like any other
		opts = append(opts, stability.WithAutoHeal(noHeal))
	}
	m, err := stability.New(opts...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var moody atomic.Bool
	moody.Store(p.Moody)
	go func() {
		defer cancel()
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			switch in.Text() {
			case "status":
				st := m.Status()
				say("status", fmt.Sprintf("%s|%v", st.Mode, st.StoreUnavailable != nil))
			case "book":
				say("book", accountOf(m))
			case "mend":
				moody.Store(false)
				for _, msg := range m.Messages() {
					_ = m.Redeliver(ctx, msg.Entry)
				}
				m.Reconnect()
			case "freeze":
				f.armed.Store(true)
			case "limit":
				say("limited", limitFiles(fileLimit))
			case "unlimit":
				say("unlimited", limitFiles(0))
			}
		}
	}()
	if p.Peer != "" {
		go p.write(ctx, m)
	}
	err = m.Run(ctx, func(_ context.Context, c *whatsmeow.Client) error {
		c.ManualHistorySyncDownload = true
		c.AddEventHandlerWithSuccessStatus(func(evt any) bool {
			msg, ok := evt.(*events.Message)
			switch {
			case !ok:
				return true
			case p.Exits != "" && msg.Message.GetConversation() == p.Exits:
				os.Exit(exitCode)
			case moody.Load() && rand.N(10) == 0:
				panic("not today")
			case moody.Load() && rand.N(10) == 0:
				return false
			}
			if _, err := fmt.Fprintln(record, msg.Info.ID); err != nil {
				return false
			}
			return record.Sync() == nil
		})
		return nil
	})
	if err == nil {
		err = m.Close(context.Background())
	}
	return err
}

const exitCode = 7

// account is the book of received messages of a process.
type account struct {
	Total, Handled    uint64
	Waiting, SetAside int
	Entries           map[string]stability.MessageState // by message id
}

func accountOf(m *stability.Manager) string {
	r := m.Status().Messages.Received
	a := account{r.Total, r.Handled, r.Waiting.Count, r.SetAside.Count, make(map[string]stability.MessageState)}
	for _, msg := range m.Messages() {
		a.Entries[msg.ID] = msg.State
	}
	text, err := json.Marshal(a)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// accountFrom asks a process for its account, which must balance in itself.
func accountFrom(t *testing.T, c *child.Process) (a account) {
	t.Helper()
	c.Tell("book")
	require.NoError(t, json.Unmarshal([]byte(c.Hears("book")), &a))
	require.Equal(t, a.Total, a.Handled+uint64(a.Waiting)+uint64(a.SetAside), "%+v", a)
	return a
}

// freezing stops this process in the middle of its next commit: what its Device
// has asked for, and its own side has let pass, is sent when it wakes.
type freezing struct {
	authstore.KV
	armed atomic.Bool
}

func (f *freezing) Commit(ctx context.Context, epoch int64, b authstore.Batch) error {
	if f.armed.CompareAndSwap(true, false) {
		last := time.Now()
		if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
			return err
		}
		// The signal need not stop the calling thread at once.
		for gap := time.Duration(0); gap < 500*time.Millisecond; {
			now := time.Now()
			gap, last = now.Sub(last), now
		}
	}
	return f.KV.Commit(ctx, epoch, b)
}

// write sends to the peer all the time.
func (p part) write(ctx context.Context, m *stability.Manager) {
	to, err := types.ParseJID(p.Peer)
	if err != nil {
		panic(err)
	}
	for n := 0; ctx.Err() == nil; n++ {
		if c, err := m.WaitReady(ctx); err == nil {
			// Longer than a process is frozen: whatsmeow panics if a send is given up while its answer is read.
			sendCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
			_, _ = c.SendMessage(sendCtx, to, text(fmt.Sprint("w", n)))
			cancel()
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (p part) backend() (stability.Backend, error) {
	if p.Served != "" {
		return dialServed(p.Served)
	}
	return localbackend.Open(p.File)
}

// fileLimit is less than any session takes, and more than a record of what was
// handled: a file system on which nothing more can be written to the session.
const fileLimit = 16 << 10

// limitFiles sets how large a file may grow; zero is the most that is allowed.
func limitFiles(size int64) error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &l); err != nil {
		return err
	}
	l.Cur = uint64(size)
	if size == 0 {
		l.Cur = l.Max
	}
	return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &l)
}

func (p part) start(t *testing.T) *child.Process {
	t.Helper()
	return child.Start(t, partEnv, p)
}

// stream lets the contact send messages of a size until stop, which returns
// their ids.
func (w *world) stream(every time.Duration, size int) (stop func() []string) {
	peer := w.peer()
	ctx, cancel := context.WithCancel(context.Background())
	var ids []string
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			id, err := peer.Send(context.Background(), w.account.JID(), strings.Repeat("x", size))
			if err != nil {
				w.t.Errorf("the contact could not send: %v", err)
				return
			}
			ids = append(ids, id)
			select {
			case <-time.After(every):
			case <-ctx.Done():
			}
		}
	})
	stop = sync.OnceValue(func() []string { cancel(); wg.Wait(); return ids })
	w.t.Cleanup(func() { stop() })
	return stop
}
