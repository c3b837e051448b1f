package main

import (
	"bytes"
	"context"
	"database/sql"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
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

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/localbackend"
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

// onSQLStore pairs a client on sqlstore and SQLite, chats, and stops it.
func (w *world) onSQLStore(path string) {
	t := w.t
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=foreign_keys(1)&_pragma=busy_timeout(5000)&_pragma=journal_mode(wal)&_txlock=immediate")
	require.NoError(t, err)
	defer func() {
		// Goroutines of a client that was disconnected may still write.
		require.NoError(t, db.Close())
		require.Eventually(t, func() bool { return db.Stats().OpenConnections == 0 }, 30*time.Second, time.Millisecond)
	}()
	w.onDatabase(db, "sqlite3")
}

func (w *world) onDatabase(db *sql.DB, dialect string) {
	t := w.t
	t.Helper()
	container := sqlstore.NewWithDB(db, dialect, nil)
	require.NoError(t, container.Upgrade(t.Context()))
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

// TestAnAccountMovesFromSQLiteAndOnAndNobodyNotices: sqlstore, then our file by
// the command, then another file by the command, then memory by the library;
// chats before, messages during each standstill, chats after.
func TestAnAccountMovesFromSQLiteAndOnAndNobodyNotices(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	old, first, second := filepath.Join(dir, "wa ü.db"), filepath.Join(dir, "first.db"), filepath.Join(dir, "second.db")
	w.onSQLStore(old)
	late := w.standstill("one ")

	var out bytes.Buffer
	require.ErrorIs(t, run(t.Context(), []string{"-from", "sqlite:" + old, "-to", "local:" + first}, &out, &out), authstore.ErrSourceInUse)
	require.NoError(t, run(t.Context(), []string{"-from", "sqlite:" + old, "-to", "local:" + first, "-stopped"}, &out, &out))
	require.Contains(t, out.String(), "read back and equal to the source")
	require.Contains(t, out.String(), "marked as moved")
	// The old service does not come back by mistake, and nothing was lost of
	// what it had.
	db, err := sql.Open("sqlite", "file:"+old+"?_pragma=foreign_keys(1)")
	require.NoError(t, err)
	defer db.Close()
	require.ErrorContains(t, sqlstore.NewWithDB(db, "sqlite3", nil).Upgrade(t.Context()), "unsupported database schema version")
	require.ErrorContains(t, run(t.Context(), []string{"-from", "sqlite:" + old, "-to", "local:" + second, "-stopped"}, &out, &out), "has moved")
	_, err = db.Exec("UPDATE whatsmeow_version SET compat=compat-1000000")
	require.NoError(t, err)
	require.NoError(t, sqlstore.NewWithDB(db, "sqlite3", nil).Upgrade(t.Context()), "and that can be undone")
	t.Log("\n" + out.String())
	b, err := localbackend.Open(first)
	require.NoError(t, err)
	w.unnoticed(w.onManager(b, func(c *whatsmeow.Client, d *diary) {
		eventually(t, "what came meanwhile", func() bool { return d.heard(late...) })
		w.chat(c, d, "local ")
	}))

	late = w.standstill("two ")
	require.NoError(t, run(t.Context(), []string{"-from", "local:" + first, "-to", "local:" + second}, &out, &out))
	require.ErrorIs(t, run(t.Context(), []string{"-from", "local:" + first, "-to", "local:" + second, "-replace"}, &out, &out), authstore.ErrNoDevice, "it has moved")
	b, err = localbackend.Open(second)
	require.NoError(t, err)
	w.unnoticed(w.onManager(b, func(c *whatsmeow.Client, d *diary) {
		eventually(t, "what came meanwhile", func() bool { return d.heard(late...) })
		w.chat(c, d, "second ")
	}))

	late = w.standstill("three ")
	from, err := openLocal(t.Context(), second)
	require.NoError(t, err)
	mem := memorybackend.New()
	to := memory(t, mem)
	r, err := authstore.Import(t.Context(), authstore.FromKV("local", from.backend.Auth, from.fence), authstore.New(to.backend.Auth), to.fence)
	require.NoError(t, err)
	require.Equal(t, r.Rows, r.Verified)
	require.NoError(t, from.close())
	require.NoError(t, to.close())
	w.unnoticed(w.onManager(mem.Backend(), func(c *whatsmeow.Client, d *diary) {
		eventually(t, "what came meanwhile", func() bool { return d.heard(late...) })
		w.chat(c, d, "memory ")
	}))
}

// TestAnOldBackupComesBackWithoutSilentLoss: the account has gone on since the
// backup, and everything said after the restore arrives, both ways.
func TestAnOldBackupComesBackWithoutSilentLoss(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "wa.db")
	w.onSQLStore(path)
	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	var archive bytes.Buffer
	key := [32]byte{4}
	_, err = authstore.Export(t.Context(), authstore.FromSQL(db, types.JID{}), &archive, key)
	require.NoError(t, err)

	lost := memorybackend.New()
	a := memory(t, lost)
	_, err = authstore.Import(t.Context(), authstore.FromSQL(db, types.JID{}), authstore.New(a.backend.Auth), a.fence, authstore.SourceStopped())
	require.NoError(t, err)
	require.NoError(t, db.Close())
	require.NoError(t, a.close())
	w.unnoticed(w.onManager(lost.Backend(), func(c *whatsmeow.Client, _ *diary) { w.say(c, "since ") }))

	restored := memorybackend.New()
	a = memory(t, restored)
	r, err := authstore.Restore(t.Context(), &archive, key, authstore.New(a.backend.Auth), a.fence)
	require.NoError(t, err)
	require.NotEmpty(t, r.Warnings)
	require.NoError(t, a.close())
	d := w.onManager(restored.Backend(), func(c *whatsmeow.Client, d *diary) {
		// First us: with the backup's counters the peer would drop these without a word.
		w.say(c, "restored ")
		w.chat(c, d, "afterwards ")
	})
	late := w.standstill("later ")
	w.onManager(restored.Backend(), func(c *whatsmeow.Client, d *diary) {
		eventually(t, "what came meanwhile", func() bool { return d.heard(late...) })
	})
	require.Zero(t, d.codes)
	require.Zero(t, d.identities)
	require.Zero(t, w.bobs.identities, "peers see the same identity")
	t.Logf("%d messages came only after a retry; the peer needed %d", d.retried, w.bobs.retried)
}

func TestADryRunLeavesNoFileAndAFileInUseIsRefused(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	old, target := filepath.Join(dir, "wa.db"), filepath.Join(dir, "account.db")
	w.onSQLStore(old)
	before, err := os.ReadFile(old)
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"-from", "sqlite:" + old, "-to", "local:" + target, "-dry-run"}, &out, &out))
	require.Contains(t, out.String(), "nothing was")
	require.NoFileExists(t, target)
	after, err := os.ReadFile(old)
	require.NoError(t, err)
	require.Equal(t, before, after)

	require.NoError(t, run(t.Context(), []string{"-from", "sqlite:" + old, "-to", "local:" + target, "-stopped", "-keep"}, &out, &out))
	require.Contains(t, out.String(), "NEVER START THE OLD SERVICE AGAIN")
	require.ErrorIs(t, run(t.Context(), []string{"-from", "sqlite:" + old, "-to", "local:" + target, "-stopped"}, &out, &out), authstore.ErrTargetPaired)
	require.NoError(t, run(t.Context(), []string{"-from", "sqlite:" + old, "-to", "local:" + target, "-stopped", "-replace"}, &out, &out))

	busy, err := openLocal(t.Context(), target)
	require.NoError(t, err)
	defer busy.close()
	next := filepath.Join(dir, "next.db")
	require.ErrorContains(t, run(t.Context(), []string{"-from", "local:" + target, "-to", "local:" + next}, &out, &out), "in use")
	require.ErrorContains(t, run(t.Context(), []string{"-from", "sqlite:" + old, "-to", "local:" + target, "-stopped"}, &out, &out), "in use")

	for _, args := range [][]string{{}, {"-from", "sqlite:" + old}, {"-from", "mysql:x", "-to", "local:x"},
		{"-from", "sqlite:" + filepath.Join(dir, "none.db"), "-to", "local:" + next}, {"-from", "local:" + filepath.Join(dir, "none.db"), "-to", "local:" + next}} {
		require.Error(t, run(t.Context(), args, &out, &out))
	}
	require.NoFileExists(t, next)
}

// TestWhatTheOldHostDidNotFinishIsHandedOverAfterTheMove: a message that was
// decrypted, and that the host's handler refused, is in the event buffer; its
// ratchet step is spent, so without the buffer nobody could read it again.
func TestWhatTheOldHostDidNotFinishIsHandedOverAfterTheMove(t *testing.T) {
	w := newWorld(t)
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "wa.db")+"?_pragma=foreign_keys(1)&_pragma=busy_timeout(5000)&_txlock=immediate")
	require.NoError(t, err)
	defer db.Close()
	w.onDatabase(db, "sqlite3")
	d, err := sqlstore.NewWithDB(db, "sqlite3", nil).GetFirstDevice(t.Context())
	require.NoError(t, err)
	c := whatsmeow.NewClient(d, nil)
	w.equip(c)
	c.SynchronousAck = true
	seen, refused := newDiary(), make(chan struct{}, 8)
	c.AddEventHandler(seen.note)
	c.AddEventHandlerWithSuccessStatus(func(evt any) bool {
		m, ok := evt.(*events.Message)
		if !ok || m.Message.GetConversation() != "unfinished" {
			return true
		}
		refused <- struct{}{}
		return false
	})
	require.NoError(t, c.Connect())
	<-seen.online
	_, err = w.bob.Send(t.Context(), w.acct.JID(), "unfinished")
	require.NoError(t, err)
	<-refused
	c.Disconnect()
	require.NotEmpty(t, w.acct.Devices()[0].Pending())

	mem := memorybackend.New()
	a := memory(t, mem)
	_, err = authstore.Import(t.Context(), authstore.FromSQL(db, types.JID{}), authstore.New(a.backend.Auth), a.fence, authstore.SourceStopped())
	require.NoError(t, err)
	require.NoError(t, a.close())
	w.unnoticed(w.onManager(mem.Backend(), func(_ *whatsmeow.Client, d *diary) {
		eventually(t, "the message comes again", func() bool { return d.heard("unfinished") })
	}))
}
