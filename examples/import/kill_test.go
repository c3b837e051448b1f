package main

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/store/sqlstore"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability/localbackend"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
	"github.com/wastability/wastability/stability/stabilitytest/postgrestest"
)

// The test runs its own binary again as the command that it kills.
const commandVariable = "WASTABILITY_IMPORT_ARGS"

func TestMain(m *testing.M) {
	linePause = 0 // the commands of tests are ended at one of their lines
	if args := os.Getenv(commandVariable); args != "" {
		if err := run(context.Background(), strings.Split(args, "\n"), os.Stdout, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(postgrestest.Main(firestoresim.Main(m)).Run())
}

// TestAnImportThatIsKilledGoesOnAndIsNeverHalfADevice: kill -9 at the nth line
// that the command prints, again and again on the same target, until it gets
// through; in between the file has no device.
func TestAnImportThatIsKilledGoesOnAndIsNeverHalfADevice(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	old, target := filepath.Join(dir, "wa.db"), filepath.Join(dir, "account.db")
	w.onSQLiteFile(old)
	db, err := sql.Open("sqlite", "file:"+old+"?_pragma=foreign_keys(1)")
	require.NoError(t, err)
	d, err := sqlstore.NewWithDB(db, "sqlite3", nil).GetFirstDevice(t.Context())
	require.NoError(t, err)
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	for i := range stabilitytest.Pick(2000, 50_000) {
		_, err := tx.Exec("INSERT INTO whatsmeow_message_secrets (our_jid, chat_jid, sender_jid, message_id, key) VALUES ($1, $2, $3, $4, $5)",
			d.ID.String(), pn(i).String(), pn(i).String(), fmt.Sprint("M", i), make([]byte, 32))
		require.NoError(t, err)
	}
	require.NoError(t, tx.Commit())
	require.NoError(t, db.Close())

	self, err := os.Executable()
	require.NoError(t, err)
	args := []string{"-from", "sqlite:" + old, "-to", "local:" + target, "-stopped", "-keep"}
	killed := 0
	for lines := 1; ; lines++ {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), commandVariable+"="+strings.Join(args, "\n"))
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		seen := 0
		watch := func(b []byte) {
			if seen += strings.Count(string(b), "\n"); seen >= lines {
				_ = cmd.Process.Kill()
			}
		}
		_, err = io.Copy(writerFunc(watch), out)
		require.NoError(t, err)
		err = cmd.Wait()
		a, openErr := openLocal(t.Context(), target)
		require.NoError(t, openErr)
		info, infoErr := authstore.New(a.backend.Auth).Info(t.Context())
		require.NoError(t, infoErr)
		require.NoError(t, a.close())
		if info.Exists {
			break // it was through, whatever we did to it afterwards
		}
		require.Error(t, err)
		killed++
		require.Less(t, killed, 200)
	}
	t.Logf("killed %d times", killed)
	require.Greater(t, killed, 3)

	from, err := sql.Open("sqlite", old)
	require.NoError(t, err)
	defer from.Close()
	a, err := openLocal(t.Context(), target)
	require.NoError(t, err)
	count, err := authstore.Import(t.Context(), authstore.FromSQL(from, types.JID{}), authstore.New(a.backend.Auth), a.fence, authstore.DryRun(), authstore.ReplaceDevice())
	require.NoError(t, err)
	again, err := authstore.Import(t.Context(), authstore.FromKV("itself", a.backend.Auth, a.fence), authstore.New(a.backend.Auth), a.fence, authstore.DryRun(), authstore.ReplaceDevice())
	require.NoError(t, err)
	require.Equal(t, count.Entries, again.Entries)
	require.NoError(t, a.close())
	b, err := localbackend.Open(target)
	require.NoError(t, err)
	w.unnoticed(w.onManager(b, func(c *whatsmeow.Client, d *diary) { w.chat(c, d, "after ") }))
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) {
	f(b)
	return len(b), nil
}
