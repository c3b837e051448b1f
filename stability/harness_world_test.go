package stability_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// What hosts of whatsmeow have suffered from, and the test of each:
//
//	connected, but deaf                     TestAStuckHandlerIsDegradedSinceItBeganAndBlocksNothing
//	silent death of a TCP connection        TestSilentLinkIsNoticedAndReplaced
//	two copies that replace each other      TestEndlessReplacementsAreNotAnsweredInKind
//	replaced once, dead for ever            TestAReplacedConnectionComesBackByItself
//	two replicas in a rolling deploy        TestHandOversInARowAnswerEveryMessageOnceAndTakeLessThanTwoSeconds
//	a conflict with oneself                 TestReconnectsAskedAtOnceMakeOneLogin
//	giving up at boot                       TestRefusedFromTheStartItKeepsTrying
//	unthrottled retries                     TestRetriesOfAnHourAreThrottled
//	retrying a logged-out session           TestALoggedOutSessionIsNotTriedAgain
//	the session vanishes: a failed read     TestAFailedReadNeverAsksToPair
//	the session vanishes: refused           TestARefusedSessionIsSetAsideAndComesBack
//	an outdated client                      TestAnOutdatedClientIsTriedSlowlyAndTold
//	a ban mistaken for a logout             TestABanIsWaitedOutAndIsNoLogout
//	health that lies                        TestStatusSaysDownWithinMoments
//	idle watchdogs that tear down           TestAQuietDayTearsNothingDownAndAsksNothing
//	no alerts, or too many                  TestAnOutageOfTenMinutesIsOneIncidentAndTheNextOneIsAnother
//	a loop that only flaps, unseen          TestConnectionsThatOnlyFlapAreALoopToo
//	restarts without a budget               TestTheFourthHealWithinAnHourBecomesSlowRetriesAndARestartChangesNothing

func TestMain(m *testing.M) {
	if !playPart() {
		debug.SetGCPercent(400)            // many small worlds: collecting them took a tenth of the time
		_ = flag.Set("test.parallel", "4") // unless the command line says another: those with processes wait most of the time
		goleak.VerifyTestMain(m)
	}
}

// bubble runs f in virtual time. A stopped virtual clock cannot be noticed
// from inside, so a watchdog outside dumps all goroutines when it happens.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	patience := stabilitytest.Pick(3*time.Minute, 15*time.Minute)
	if stabilitytest.Race {
		patience = 15 * time.Minute // the longest take minutes beside the others
	}
	watchdog := time.AfterFunc(patience, func() {
		buf := make([]byte, 4<<20)
		fmt.Fprintf(os.Stderr, "%s: the virtual clock stopped\n%s\n", t.Name(), buf[:runtime.Stack(buf, true)])
		os.Exit(2)
	})
	defer watchdog.Stop()
	synctest.Test(t, f)
}

// logger shows the Manager's log with -v and WASTABILITY_LOG=1.
func logger() *slog.Logger {
	if os.Getenv("WASTABILITY_LOG") == "" {
		return slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// world is a simulated service with one account of ours, whose backend any
// number of instances share, and a contact who writes to it.
type world struct {
	t       *testing.T
	sim     *wasim.Service
	account *wasim.Account
	memory  server
	contact *wasim.Contact
	once    sync.Once
	scribe  *wasim.Account
	took    taken
}

func newWorld(t *testing.T) *world { return newWorldOn(t) }

func newWorldOn(t *testing.T, opts ...wasim.Option) *world {
	if !stabilitytest.Full() {
		opts = append(opts, wasim.WithFewKeys())
	}
	sim := wasim.New(append([]wasim.Option{wasim.WithTB(t)}, opts...)...)
	return &world{t: t, sim: sim, account: sim.NewAccount("491520000001"), memory: newServer(t)}
}

// device is the account's newest linked device as the service knows it.
func (w *world) device() *wasim.Device {
	d := w.account.Devices()
	require.NotEmpty(w.t, d, "no device is linked")
	return d[len(d)-1]
}

// logins counts the logins of all devices the account has now.
func (w *world) logins() int { return w.device().Stats().Logins }

// peer returns the contact, made on first use.
func (w *world) peer() *wasim.Contact {
	if w.contact == nil {
		c, err := w.sim.NewContact(context.Background(), "491520000002")
		require.NoError(w.t, err)
		w.contact = c
	}
	return w.contact
}

// say writes to the account from a phone, which takes no part in what follows:
// a peer would be a second client with its own connection and its own pings.
func (w *world) say(s string) (id string, err error) {
	w.once.Do(func() {
		w.scribe = w.sim.NewAccount("491520000008")
		w.scribe.Phone().On()
	})
	return w.scribe.Phone().SendMessage(w.account.JID(), text(s))
}

// instance is one process of the host: a Manager with what its host sees.
type instance struct {
	w       *world
	m       *stability.Manager
	backend stability.Backend
	codes   chan stability.QR
	refuse  func(*events.Message) bool // the handler fails
	cancel  context.CancelFunc
	result  chan error

	exits chan int

	mu       sync.Mutex
	events   []stability.Event
	got      []string // texts handed over
	setups   int
	onEvent  func(any)
	onSetup  func(*whatsmeow.Client)
	onChange func(stability.Event)
}

// keepsTheLock is for a test whose premise is that an instance that cannot connect
// holds on to the lock. Such a test says why. All others yield, as a host's would.
var keepsTheLock = stability.WithReconnect(reconnect.Policy{YieldAfter: reconnect.NoYield})

// instance makes a Manager of the account, with a loud but quick policy.
func (w *world) instance(opts ...stability.Option) *instance {
	w.t.Helper()
	i := &instance{w: w, backend: w.memory.Backend(), codes: make(chan stability.QR, 64), result: make(chan error, 1), exits: make(chan int, 16)}
	log := &curious{Handler: logger().Handler(), tire: true}
	base := []stability.Option{
		stability.WithBackend(i.backend), stability.WithTransport(w.sim.Transport()), stability.WithLogger(slog.New(log)),
		stability.WithExit(func(code int) { i.exits <- code }),
		stability.WithQR(func(q stability.QR) { i.codes <- q }),
		stability.WithObserver(func(e stability.Event) {
			i.mu.Lock()
			i.events = append(i.events, e)
			f := i.onChange
			i.mu.Unlock()
			if f != nil {
				f(e)
			}
		}),
	}
	m, err := stability.New(append(base, opts...)...)
	require.NoError(w.t, err)
	i.m = m
	log.m.Store(m)
	w.t.Cleanup(i.kill)
	return i
}

// kill ends whatever a failed test left running.
func (i *instance) kill() {
	if i.cancel != nil {
		i.cancel()
	}
	_ = i.m.Close(context.Background())
}

// forget empties the history.
func (i *instance) forget() {
	synctest.Wait() // until the observer has been told what happened so far
	i.mu.Lock()
	defer i.mu.Unlock()
	i.events, i.got = nil, nil
	for len(i.codes) > 0 {
		<-i.codes
	}
}

// run starts Run; stop ends it and closes the Manager.
func (i *instance) run() *instance {
	ctx, cancel := context.WithCancel(context.Background())
	i.cancel = cancel
	go func() { i.result <- i.m.Run(ctx, i.setup) }()
	return i
}

func (i *instance) setup(_ context.Context, c *whatsmeow.Client) error {
	i.mu.Lock()
	i.setups++
	f := i.onSetup
	i.mu.Unlock()
	if f != nil {
		f(c)
	}
	c.ManualHistorySyncDownload = true
	c.AddEventHandlerWithSuccessStatus(i.handle)
	return nil
}

func (i *instance) handle(evt any) bool {
	i.mu.Lock()
	f, refuse := i.onEvent, i.refuse
	i.mu.Unlock()
	if f != nil {
		f(evt)
	}
	if msg, ok := evt.(*events.Message); ok {
		if refuse != nil && refuse(msg) {
			return false
		}
		i.mu.Lock()
		i.got = append(i.got, msg.Message.GetConversation())
		i.mu.Unlock()
		i.w.took.add(msg.Info.ID)
	}
	return true
}

func (i *instance) stop() {
	i.w.t.Helper()
	if i.cancel != nil {
		i.cancel()
		require.NoError(i.w.t, <-i.result)
	}
	require.NoError(i.w.t, i.m.Close(context.Background()))
}

// ready waits until the instance is connected.
func (i *instance) ready() *instance {
	i.w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	_, err := i.m.WaitReady(ctx)
	require.NoError(i.w.t, err, "status: %+v", i.m.Status())
	return i
}

// pair scans the next code and waits for the connection.
func (i *instance) pair() *instance {
	i.w.t.Helper()
	select {
	case q := <-i.codes:
		require.NoError(i.w.t, i.w.account.Phone().Scan(q.Code))
	case <-time.After(time.Minute):
		require.Fail(i.w.t, "no code was offered", "status: %+v", i.m.Status())
	}
	return i.ready()
}

func (i *instance) texts() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.got)
}

// history returns the events of a kind, in order.
func (i *instance) history(kinds ...stability.EventKind) []stability.Event {
	i.mu.Lock()
	defer i.mu.Unlock()
	var out []stability.Event
	for _, e := range i.events {
		if slices.Contains(kinds, e.Kind) {
			out = append(out, e)
		}
	}
	return out
}

// someUnderRace leaves out two rows in three of a long table while the race
// detector is on, others each day. Without it every row runs.
func someUnderRace(t *testing.T) {
	t.Helper()
	if h := fnv.New32a(); stabilitytest.Race {
		_, _ = h.Write([]byte(t.Name()))
		if (int(h.Sum32()%3)+time.Now().YearDay())%3 != 0 {
			t.Skip("another day, under the race detector")
		}
	}
}

// await waits in small steps until cond holds.
func (w *world) await(what string, cond func() bool) {
	w.t.Helper()
	start, step := time.Now(), 10*time.Millisecond
	for !cond() {
		switch waited := time.Since(start); {
		case waited > 48*time.Hour:
			require.Fail(w.t, "never happened: "+what)
		case waited > time.Minute:
			step = time.Second
		}
		time.Sleep(step)
	}
}

// reached waits for the n-th event of a kind and returns it.
func (i *instance) reached(n int, kind stability.EventKind) stability.Event {
	i.w.t.Helper()
	i.w.await(fmt.Sprintf("%d × %s (status: %+v)", n, kind, i.m.Status().Summary), func() bool { return len(i.history(kind)) >= n })
	return i.history(kind)[n-1]
}

func (i *instance) status() stability.Status { return i.m.Status() }

func text(s string) *waE2E.Message { return &waE2E.Message{Conversation: proto.String(s)} }

func (i *instance) send(to types.JID, s string) error {
	c := i.m.Client()
	if c == nil {
		return errors.New("no client")
	}
	_, err := c.SendMessage(context.Background(), to, text(s))
	return err
}

// awaitReal waits in real time.
func awaitReal(t *testing.T, what string, cond func() bool) {
	t.Helper()
	awaitWithin(t, time.Minute, what, cond)
}

func awaitWithin(t *testing.T, most time.Duration, what string, cond func() bool) {
	t.Helper()
	for limit := time.Now().Add(most); !cond(); time.Sleep(5 * time.Millisecond) {
		require.True(t, time.Now().Before(limit), "never happened: "+what)
	}
}
