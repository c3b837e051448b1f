package main

import (
	"bytes"
	"database/sql"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/store/sqlstore"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability/localbackend"
	"github.com/wastability/wastability/stability/memorybackend"
)

// TestAnAccountMovesFromSQLiteAndOnAndNobodyNotices: sqlstore, then our file by
// the command, then another file by the command, then memory by the library;
// chats before, messages during each standstill, chats after.
func TestAnAccountMovesFromSQLiteAndOnAndNobodyNotices(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	old, first, second := filepath.Join(dir, "wa ü.db"), filepath.Join(dir, "first.db"), filepath.Join(dir, "second.db")
	w.onSQLiteFile(old)
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
	w.onSQLiteFile(path)
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
	w.onSQLiteFile(old)
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
	old := sqliteFile(filepath.Join(t.TempDir(), "wa.db"))
	w.onSQLStore(old)
	old.onStore(t, func(container *sqlstore.Container) {
		d, err := container.GetFirstDevice(t.Context())
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
	})

	mem := memorybackend.New()
	a := memory(t, mem)
	_, err := authstore.Import(t.Context(), authstore.FromSQL(old.open(t), types.JID{}), authstore.New(a.backend.Auth), a.fence, authstore.SourceStopped())
	require.NoError(t, err)
	require.NoError(t, a.close())
	w.unnoticed(w.onManager(mem.Backend(), func(_ *whatsmeow.Client, d *diary) {
		eventually(t, "the message comes again", func() bool { return d.heard("unfinished") })
	}))
}
