package main

import (
	"context"
	"database/sql"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/store/sqlstore"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/memorybackend"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// diary is what a client told.
type diary struct {
	mu            sync.Mutex
	texts         []string
	retried       int
	undecryptable int
	identities    int
	codes         int
	online        chan struct{}
	onCode        func(string)
}

func newDiary() *diary { return &diary{online: make(chan struct{}, 8)} }

func (d *diary) note(evt any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch e := evt.(type) {
	case *events.QR:
		d.codes++
		if d.onCode != nil {
			d.onCode(e.Codes[0])
		}
	case *events.Connected:
		d.online <- struct{}{}
	case *events.Message:
		if e.Info.IsFromMe {
			return
		}
		if e.RetryCount > 0 {
			d.retried++
		}
		d.texts = append(d.texts, e.Message.GetConversation())
	case *events.UndecryptableMessage:
		d.undecryptable++
	case *events.IdentityChange:
		d.identities++
	}
}

func (d *diary) heard(texts ...string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, want := range texts {
		if !slices.Contains(d.texts, want) {
			return false
		}
	}
	return true
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	require.Eventually(t, f, 30*time.Second, 5*time.Millisecond, what)
}

type world struct {
	t     *testing.T
	sim   *wasim.Service
	acct  *wasim.Account
	bob   *wasim.Contact
	group types.JID
	bobs  *diary
}

func newWorld(t *testing.T) *world { return newWorldOf(t, "491700000001") }

func newWorldOf(t *testing.T, number string) *world {
	w := &world{t: t, sim: wasim.New(wasim.WithTB(t)), bobs: newDiary()}
	w.acct = w.sim.NewAccount(number)
	bob, err := w.sim.NewContact(t.Context(), "491700000002")
	require.NoError(t, err)
	w.bob = bob
	bob.Client().AddEventHandler(w.bobs.note)
	w.group = w.sim.NewGroup("team", w.acct, bob.Account()).JID()
	t.Cleanup(bob.Close)
	return w
}

func (w *world) equip(c *whatsmeow.Client) {
	client := &http.Client{Transport: w.sim.Transport(), Timeout: 15 * time.Second}
	c.SetWebsocketHTTPClient(client)
	c.SetPreLoginHTTPClient(client)
	c.SetMediaHTTPClient(client)
	c.ManualHistorySyncDownload = true
	c.EnableDecryptedEventBuffer = true
}

// chat exchanges messages, alone and in the group, both ways.
func (w *world) chat(c *whatsmeow.Client, d *diary, prefix string) {
	t := w.t
	t.Helper()
	for i := range 3 {
		mark := prefix + string(rune('0'+i))
		for name, to := range map[string]types.JID{"to us ": w.acct.JID(), "to the group ": w.group} {
			_, err := w.bob.Send(t.Context(), to, name+mark)
			require.NoError(t, err)
			eventually(t, name+mark, func() bool { return d.heard(name + mark) })
		}
		for name, to := range map[string]types.JID{"from us ": w.bob.JID(), "from us to the group ": w.group} {
			_, err := c.SendMessage(t.Context(), to, &waE2E.Message{Conversation: proto.String(name + mark)})
			require.NoError(t, err)
			eventually(t, name+mark, func() bool { return w.bobs.heard(name + mark) })
		}
	}
}

// say sends messages that nobody answers.
func (w *world) say(c *whatsmeow.Client, prefix string) {
	t := w.t
	t.Helper()
	for i := range 3 {
		for name, to := range map[string]types.JID{"word ": w.bob.JID(), "word to the group ": w.group} {
			text := prefix + name + string(rune('0'+i))
			_, err := c.SendMessage(t.Context(), to, &waE2E.Message{Conversation: proto.String(text)})
			require.NoError(t, err)
			eventually(t, text, func() bool { return w.bobs.heard(text) })
		}
	}
}

// sqlSource is a database of whatsmeow's SQL store: a driver, and what it opens.
type sqlSource struct{ driver, dsn string }

func sqliteFile(path string) sqlSource {
	return sqlSource{"sqlite", "file:" + path + "?_pragma=foreign_keys(1)&_pragma=busy_timeout(5000)&_pragma=journal_mode(wal)&_txlock=immediate"}
}

func (s sqlSource) open(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open(s.driver, s.dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func (s sqlSource) dialect() string {
	if s.driver == "sqlite" {
		return "sqlite3"
	}
	return s.driver
}

// onStore gives f a container of whatsmeow's SQL store. When it returns, no
// client of that container can write any more: goroutines of a client that was
// disconnected still save a contact's name, so each has connections of its own,
// and they are closed.
func (s sqlSource) onStore(t *testing.T, f func(*sqlstore.Container)) {
	t.Helper()
	db := s.open(t)
	defer func() {
		require.NoError(t, db.Close())
		eventually(t, "the last write of a stopped client", func() bool { return db.Stats().OpenConnections == 0 })
	}()
	container := sqlstore.NewWithDB(db, s.dialect(), nil)
	require.NoError(t, container.Upgrade(t.Context()))
	f(container)
}

func (w *world) onSQLiteFile(path string) { w.t.Helper(); w.onSQLStore(sqliteFile(path)) }

// onSQLStore pairs a client on whatsmeow's SQL store, chats, and stops it.
func (w *world) onSQLStore(source sqlSource) {
	t := w.t
	t.Helper()
	source.onStore(t, func(container *sqlstore.Container) {
		c := whatsmeow.NewClient(container.NewDevice(), nil)
		w.equip(c)
		d := newDiary()
		d.onCode = func(code string) { go func() { _ = w.acct.Phone().Scan(code) }() }
		c.AddEventHandler(d.note)
		require.NoError(t, c.Connect())
		<-d.online
		w.chat(c, d, "before ")
		c.Disconnect()
		require.Zero(t, d.undecryptable)
	})
}

func (w *world) standstill(prefix string) (texts []string) {
	for i := range 3 {
		for name, to := range map[string]types.JID{"meanwhile ": w.acct.JID(), "meanwhile in the group ": w.group} {
			text := prefix + name + string(rune('0'+i))
			_, err := w.bob.Send(w.t.Context(), to, text)
			require.NoError(w.t, err)
			texts = append(texts, text)
		}
	}
	return texts
}

// onManager runs the account on a backend of ours while f does something.
func (w *world) onManager(b stability.Backend, f func(*whatsmeow.Client, *diary)) *diary {
	t := w.t
	t.Helper()
	d := newDiary()
	m, err := stability.New(stability.WithBackend(b), stability.WithTransport(w.sim.Transport()),
		stability.WithQR(func(stability.QR) { d.note(&events.QR{}) }), stability.WithExit(func(int) {}),
		stability.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- m.Run(ctx, func(_ context.Context, c *whatsmeow.Client) error {
			c.ManualHistorySyncDownload = true
			c.AddEventHandler(d.note)
			return nil
		})
	}()
	wait, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	c, err := m.WaitReady(wait)
	require.NoError(t, err)
	f(c, d)
	cancel()
	<-done
	require.NoError(t, m.Close(context.Background()))
	return d
}

// unnoticed: nobody saw anything of the move.
func (w *world) unnoticed(d *diary) {
	t := w.t
	t.Helper()
	require.Zero(t, d.codes, "no pairing")
	require.Zero(t, d.undecryptable)
	require.Zero(t, d.retried)
	require.Zero(t, d.identities)
	require.Zero(t, w.bob.Undecryptable())
	require.Zero(t, w.bobs.identities)
	require.Zero(t, w.bobs.retried)
	require.Len(t, w.acct.Devices(), 1)
	require.Empty(t, w.sim.Violations())
}

func memory(t *testing.T, m *memorybackend.Memory) *account {
	a, err := hold(t.Context(), m.Backend(), "memory")
	require.NoError(t, err)
	return a
}
