package main

import (
	"bytes"
	"context"
	"database/sql"
	"path/filepath"
	"testing"

	"cloud.google.com/go/firestore"
	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/store/sqlstore"

	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

func TestEveryDeviceMovesToADocumentOfItsOwn(t *testing.T) {
	sim := firestoresim.New()
	t.Cleanup(sim.Close)
	before := firestoreClient
	firestoreClient = func(ctx context.Context, project string) (*firestore.Client, error) { return sim.Client(ctx, project) }
	t.Cleanup(func() { firestoreClient = before })

	old := filepath.Join(t.TempDir(), "old.db")
	worlds := []*world{newWorldOf(t, "491700000031"), newWorldOf(t, "491700000032")}
	var late [][]string
	for _, w := range worlds {
		w.onSQLStore(old)
		late = append(late, w.standstill("meanwhile "))
	}
	starts := func() error { // the old program
		db, err := sql.Open("sqlite", "file:"+old+"?_pragma=foreign_keys(1)")
		require.NoError(t, err)
		defer db.Close()
		return sqlstore.NewWithDB(db, "sqlite3", nil).Upgrade(t.Context())
	}
	const place = "demo-all/accounts"
	var out bytes.Buffer
	all := func(more ...string) error {
		out.Reset()
		return run(t.Context(), append([]string{"-from", "sqlite:" + old, "-to", "firestore:" + place, "-all", "-stopped"}, more...), &out, &out)
	}
	where := func(w *world) string { return place + "/" + w.acct.PhoneNumber() }

	require.NoError(t, all("-dry-run"))
	require.Contains(t, out.String(), "2 devices: 2 moved")
	for _, w := range worlds {
		b, err := openFirestore(t.Context(), where(w))
		require.NoError(t, err)
		clean, err := untouched(t.Context(), b)
		require.NoError(t, err)
		require.True(t, clean, "a dry run writes nothing")
		require.NoError(t, b.Close())
	}

	b, err := openFirestore(t.Context(), where(worlds[1]))
	require.NoError(t, err)
	busy, err := hold(t.Context(), b, "the service")
	require.NoError(t, err)
	require.ErrorContains(t, all(), "in use")
	require.Contains(t, out.String(), "2 devices: 1 moved, 0 were there already, 1 failed")
	require.NoError(t, starts(), "not marked before the last device has moved")
	require.NoError(t, busy.close())

	require.NoError(t, all())
	require.Contains(t, out.String(), "2 devices: 1 moved, 1 were there already, 0 failed")
	require.ErrorContains(t, starts(), "unsupported database schema version")
	for i, w := range worlds {
		b, err := openFirestore(t.Context(), where(w))
		require.NoError(t, err)
		w.unnoticed(w.onManager(b, func(c *whatsmeow.Client, d *diary) {
			eventually(t, "what came meanwhile", func() bool { return d.heard(late[i]...) })
			w.chat(c, d, "after ")
		}))
	}
}
