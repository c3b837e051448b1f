package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/localbackend"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

// onFirestore gives what stands behind "firestore:", in a project of its own.
func onFirestore(t *testing.T) (where string, documents func() int, open func() stability.Backend) {
	e := firestoresim.NeedEmulator(t)
	t.Setenv(firestoresim.HostEnv, e.Addr())
	project := "demo-" + strings.ToLower(rand.Text()[:20])
	c, err := e.Client(t.Context(), project)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	where = project + "/moved/account"
	documents = func() (n int) {
		for _, group := range []string{"locks", "whatsmeow_auth", "keys", "state", "incidents"} {
			docs, err := c.CollectionGroup(group).Documents(t.Context()).GetAll()
			require.NoError(t, err)
			n += len(docs)
		}
		return n
	}
	open = func() stability.Backend {
		b, err := openFirestore(t.Context(), where)
		require.NoError(t, err)
		return b
	}
	return where, documents, open
}

func TestAccountMovesToFirestoreAndBack(t *testing.T) {
	where, documents, open := onFirestore(t)
	w := newWorld(t)
	dir := t.TempDir()
	old, first, second := filepath.Join(dir, "wa.db"), filepath.Join(dir, "first.db"), filepath.Join(dir, "second.db")
	w.onSQLiteFile(old)
	var out bytes.Buffer
	move := func(from, to string, more ...string) error {
		out.Reset()
		return run(t.Context(), append([]string{"-from", from, "-to", to}, more...), &out, &out)
	}

	// Nothing is left behind by a look.
	require.ErrorIs(t, move("firestore:"+where, "local:"+first), authstore.ErrNoDevice)
	require.NoError(t, move("sqlite:"+old, "firestore:"+where, "-dry-run"))
	require.Contains(t, out.String(), "nothing was")
	require.Zero(t, documents())
	require.ErrorContains(t, move("sqlite:"+old, "firestore:"+where), "-stopped")

	require.NoError(t, move("sqlite:"+old, "local:"+first, "-stopped"))
	late := w.standstill("one ")
	require.NoError(t, move("local:"+first, "firestore:"+where))
	require.Contains(t, out.String(), "read back and equal to the source")
	require.Contains(t, out.String(), "marked as moved")
	require.ErrorIs(t, move("local:"+first, "firestore:"+where, "-replace"), authstore.ErrNoDevice, "it has moved")
	w.unnoticed(w.onManager(open(), func(c *whatsmeow.Client, d *diary) {
		eventually(t, "what came meanwhile", func() bool { return d.heard(late...) })
		w.chat(c, d, "firestore ")
	}))

	// A dry run looks at the account that is there, and a service that runs on
	// it keeps both directions from starting.
	require.ErrorIs(t, move("sqlite:"+old, "firestore:"+where, "-stopped", "-dry-run"), authstore.ErrTargetPaired)
	busy, err := hold(t.Context(), open(), "the service")
	require.NoError(t, err)
	require.ErrorContains(t, move("firestore:"+where, "local:"+second), "in use")
	require.ErrorContains(t, move("local:"+first, "firestore:"+where), "in use")
	require.ErrorContains(t, move("local:"+first, "firestore:"+where, "-dry-run"), "in use")
	require.NoError(t, busy.close())
	require.ErrorContains(t, move("firestore:"+where, "firestore:"+where, "-replace"), "in use", "into itself")

	late = w.standstill("two ")
	require.NoError(t, move("firestore:"+where, "local:"+second))
	require.Contains(t, out.String(), "marked as moved")
	require.ErrorIs(t, move("firestore:"+where, "local:"+second, "-replace"), authstore.ErrNoDevice, "it has moved")
	b, err := localbackend.Open(second)
	require.NoError(t, err)
	w.unnoticed(w.onManager(b, func(c *whatsmeow.Client, d *diary) {
		eventually(t, "what came meanwhile", func() bool { return d.heard(late...) })
		w.chat(c, d, "back ")
	}))
}

// Each attempt is ended one line later than the one before.
func TestInterruptedImportToFirestoreGoesOn(t *testing.T) {
	where, _, open := onFirestore(t)
	w := newWorld(t)
	dir := t.TempDir()
	old := filepath.Join(dir, "wa.db")
	w.onSQLiteFile(old)
	args := []string{"-from", "sqlite:" + old, "-to", "firestore:" + where, "-stopped"}
	interrupted := 0
	for lines := 3; ; lines += 5 {
		ctx, cancel := context.WithCancel(t.Context())
		var out bytes.Buffer
		err := run(ctx, args, writerFunc(func(b []byte) {
			out.Write(b)
			if strings.Count(out.String(), "\n") >= lines {
				cancel()
			}
		}), &out)
		cancel()
		backend := open()
		info, infoErr := authstore.New(backend.Auth).Info(t.Context())
		require.NoError(t, infoErr)
		require.NoError(t, backend.Close())
		if info.Exists { // it was through, whatever we did to it afterwards
			if err == nil {
				require.Contains(t, out.String(), "went on with an unfinished import")
			}
			break
		}
		require.Error(t, err)
		interrupted++
		require.Less(t, interrupted, 50)
	}
	require.Greater(t, interrupted, 3)
	w.unnoticed(w.onManager(open(), func(c *whatsmeow.Client, d *diary) { w.chat(c, d, "after ") }))
}
