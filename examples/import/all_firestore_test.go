package main

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"

	"cloud.google.com/go/firestore"
	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"

	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

func TestEveryDeviceMovesToADocumentOfItsOwn(t *testing.T) {
	sim := firestoresim.New()
	t.Cleanup(sim.Close)
	before := firestoreClient
	firestoreClient = func(ctx context.Context, project string) (*firestore.Client, error) { return sim.Client(ctx, project) }
	t.Cleanup(func() { firestoreClient = before })

	old := filepath.Join(t.TempDir(), "old.db")
	worlds, late, starts := stoodStill(t, old, "491700000031", "491700000032")
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
