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

	"github.com/wastability/wastability/stability/localbackend"
)

// stoodStill is a file of whatsmeow's own with an account for each number, in which
// messages wait for each. starts is what the old program does first.
func stoodStill(t *testing.T, old string, numbers ...string) (worlds []*world, late [][]string, starts func() error) {
	for _, number := range numbers {
		w := newWorldOf(t, number)
		w.onSQLiteFile(old)
		worlds, late = append(worlds, w), append(late, w.standstill("meanwhile "))
	}
	return worlds, late, func() error {
		db, err := sql.Open("sqlite", "file:"+old+"?_pragma=foreign_keys(1)")
		require.NoError(t, err)
		defer db.Close()
		return sqlstore.NewWithDB(db, "sqlite3", nil).Upgrade(t.Context())
	}
}

func TestEveryDeviceOfAFileMovesAndTheFileIsMarkedLast(t *testing.T) {
	dir := t.TempDir()
	old, folder := filepath.Join(dir, "old.db"), filepath.Join(dir, "accounts")
	worlds, late, starts := stoodStill(t, old, "491700000021", "491700000022")
	var out bytes.Buffer
	all := func(more ...string) error {
		out.Reset()
		return run(t.Context(), append([]string{"-from", "sqlite:" + old, "-to", "local:" + folder, "-all", "-stopped"}, more...), &out, &out)
	}
	require.ErrorContains(t, run(t.Context(), []string{"-from", "sqlite:" + old, "-to", "nowhere:x", "-all"}, &out, &out), "local:FOLDER")
	require.NoError(t, all("-dry-run"))
	require.Contains(t, out.String(), "2 devices: 2 moved")
	require.NoDirExists(t, folder)

	file := func(w *world) string { return filepath.Join(folder, w.acct.PhoneNumber(), "wastability.db") }
	require.NoError(t, os.MkdirAll(filepath.Dir(file(worlds[1])), 0o700))
	busy, err := openLocal(t.Context(), file(worlds[1]))
	require.NoError(t, err)
	require.ErrorContains(t, all(), "in use")
	require.Contains(t, out.String(), "2 devices: 1 moved, 0 were there already, 1 failed")
	require.NoError(t, starts(), "not marked before the last device has moved")
	require.NoError(t, busy.close())

	require.NoError(t, all())
	require.Contains(t, out.String(), "2 devices: 1 moved, 1 were there already, 0 failed")
	require.ErrorContains(t, starts(), "unsupported database schema version")
	for i, w := range worlds {
		b, err := localbackend.Open(file(w))
		require.NoError(t, err)
		w.unnoticed(w.onManager(b, func(c *whatsmeow.Client, d *diary) {
			eventually(t, "what came meanwhile", func() bool { return d.heard(late[i]...) })
			w.chat(c, d, "after ")
		}))
	}
}
