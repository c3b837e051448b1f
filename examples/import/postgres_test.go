package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/store/sqlstore"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/localbackend"
	"github.com/wastability/wastability/stability/postgresbackend"
	"github.com/wastability/wastability/stability/stabilitytest/postgrestest"
)

// database makes an empty one on the shared server.
func database(t *testing.T) (dsn string) {
	t.Helper()
	s := postgrestest.Need(t)
	name := "d" + strings.ToLower(rand.Text())
	_, err := connect(t, s.DSN()).Exec("CREATE DATABASE " + name)
	require.NoError(t, err)
	return strings.Replace(s.DSN(), "/postgres?", "/"+name+"?", 1)
}

func postgresDatabase(dsn string) sqlSource { return sqlSource{"postgres", dsn} }

func connect(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	return postgresDatabase(dsn).open(t)
}

func startPostgres(t *testing.T) *sql.DB { return connect(t, database(t)) }

func ours(t *testing.T, dsn, id string) stability.Backend {
	t.Helper()
	b, err := place{dsn, "wastability"}.account(t.Context(), id, false)
	require.NoError(t, err)
	return b
}

func schemas(t *testing.T, db *sql.DB) (n int) {
	t.Helper()
	require.NoError(t, db.QueryRow("SELECT count(*) FROM pg_namespace WHERE nspname = 'wastability'").Scan(&n))
	return n
}

// marked says whether whatsmeow's own store still opens the database.
func marked(t *testing.T, db *sql.DB) bool {
	err := sqlstore.NewWithDB(db, "postgres", nil).Upgrade(t.Context())
	if err != nil {
		require.ErrorContains(t, err, "unsupported database schema version")
	}
	return err != nil
}

func TestAccountMovesIntoOurSchemaOfTheSameDatabase(t *testing.T) {
	dsn := database(t)
	db := connect(t, dsn)
	w := newWorld(t)
	w.onSQLStore(postgresDatabase(dsn))
	late := w.standstill("one ")
	var out bytes.Buffer
	move := func(args ...string) error {
		out.Reset()
		return run(t.Context(), args, &out, &out)
	}
	into := []string{"-from", "postgres:" + dsn, "-to", "postgres:" + dsn}
	require.ErrorContains(t, move(into...), "-stopped")
	require.NoError(t, move(append(into, "-dry-run")...))
	require.Contains(t, out.String(), "nothing was")
	require.NoError(t, move(append(into, "-dry-run", "-all")...))
	require.Contains(t, out.String(), "nothing was written")

	require.NoError(t, move(append(into, "-stopped")...))
	require.Contains(t, out.String(), "read back and equal to the source")
	require.Contains(t, out.String(), "marked as moved")
	require.True(t, marked(t, db))
	id := w.acct.PhoneNumber()
	w.unnoticed(w.onManager(ours(t, dsn, id), func(c *whatsmeow.Client, d *diary) {
		eventually(t, "what came meanwhile", func() bool { return d.heard(late...) })
		w.chat(c, d, "postgres ")
	}))

	// On, into a file; what is not there, or in use, is named and left alone.
	file := filepath.Join(t.TempDir(), "wa.db")
	on := []string{"-from", "postgresbackend:" + dsn, "-to", "local:" + file}
	require.ErrorContains(t, move(on...), "-account")
	require.ErrorIs(t, move(append(on, "-account", "nobody")...), authstore.ErrNoDevice)
	var accounts int
	require.NoError(t, db.QueryRow("SELECT count(*) FROM wastability.locks").Scan(&accounts))
	require.Equal(t, 1, accounts)
	busy, err := hold(t.Context(), ours(t, dsn, id), "the service")
	require.NoError(t, err)
	require.ErrorContains(t, move(append(on, "-account", id)...), "in use")
	require.NoError(t, busy.close())
	late = w.standstill("two ")
	require.NoError(t, move(append(on, "-account", id)...))
	require.ErrorIs(t, move(append(on, "-account", id, "-replace")...), authstore.ErrNoDevice, "it has moved")
	b, err := localbackend.Open(file)
	require.NoError(t, err)
	w.unnoticed(w.onManager(b, func(c *whatsmeow.Client, d *diary) {
		eventually(t, "what came meanwhile", func() bool { return d.heard(late...) })
		w.chat(c, d, "local ")
	}))
	require.ErrorContains(t, move("-from", "local:"+file, "-to", "sqlite:"+filepath.Join(t.TempDir(), "x.db")), "pass postgres:DSN", "there is no way back")
}

func TestDryRunIntoPostgresMakesNoSchema(t *testing.T) {
	dsn := database(t)
	db := connect(t, dsn)
	w := newWorld(t)
	w.onSQLStore(postgresDatabase(dsn))
	var out bytes.Buffer
	for _, more := range [][]string{nil, {"-all"}, {"-account", "named"}} {
		args := append([]string{"-from", "postgres:" + dsn, "-to", "postgres:" + dsn, "-dry-run"}, more...)
		require.NoError(t, run(t.Context(), args, &out, &out))
	}
	require.Zero(t, schemas(t, db))
	require.False(t, marked(t, db))
}

// One account is in use at first, then the command is stopped on its way: what
// has moved stays, and the database is marked when nothing is left.
func TestEveryDeviceOfADatabaseMovesHoweverOftenItTakes(t *testing.T) {
	from := database(t)
	db := connect(t, from)
	to := database(t)
	worlds := []*world{newWorldOf(t, "491700000011"), newWorldOf(t, "491700000012"), newWorldOf(t, "491700000013")}
	var late [][]string
	for _, w := range worlds {
		w.onSQLStore(postgresDatabase(from))
		late = append(late, w.standstill("meanwhile "))
	}
	var out bytes.Buffer
	args := []string{"-from", "postgres:" + from, "-to", "postgres:" + to, "-all", "-stopped"}
	all := func(ctx context.Context, out *bytes.Buffer) error {
		out.Reset()
		return run(ctx, args, out, out)
	}
	require.Error(t, run(t.Context(), append(args, "-account", "x"), &out, &out))

	other, err := place{to, "wastability"}.account(t.Context(), worlds[1].acct.PhoneNumber(), true)
	require.NoError(t, err)
	busy, err := hold(t.Context(), other, "somebody")
	require.NoError(t, err)
	require.ErrorContains(t, all(t.Context(), &out), "in use")
	require.Contains(t, out.String(), "3 devices: 2 moved, 0 were there already, 1 failed")
	require.False(t, marked(t, db))
	require.NoError(t, busy.close())

	ctx, stop := context.WithCancel(t.Context())
	var shown bytes.Buffer
	err = run(ctx, args, writerFunc(func(b []byte) {
		if shown.Write(b); strings.Contains(shown.String(), "copy ") {
			stop()
		}
	}), &out)
	require.ErrorIs(t, err, context.Canceled)
	stop()
	require.False(t, marked(t, db))

	require.NoError(t, all(t.Context(), &out))
	require.Contains(t, out.String(), "went on with an unfinished import")
	require.Contains(t, out.String(), "3 devices: 1 moved, 2 were there already, 0 failed")
	require.True(t, marked(t, db))
	var compat, again int
	require.NoError(t, db.QueryRow("SELECT compat FROM whatsmeow_version").Scan(&compat))
	require.NoError(t, all(t.Context(), &out), "once more changes nothing")
	require.NoError(t, db.QueryRow("SELECT compat FROM whatsmeow_version").Scan(&again))
	require.Equal(t, compat, again)

	for i, w := range worlds {
		w.unnoticed(w.onManager(ours(t, to, w.acct.PhoneNumber()), func(c *whatsmeow.Client, d *diary) {
			eventually(t, "what came meanwhile", func() bool { return d.heard(late[i]...) })
			w.chat(c, d, "after ")
		}))
	}
}

func TestTwoDevicesOfOneNumberBecomeTwoAccounts(t *testing.T) {
	one, two, other := types.NewADJID("4915", 0, 1), types.NewADJID("4915", 0, 12), types.NewADJID("4916", 0, 3)
	all := []types.JID{one, two, other}
	require.Equal(t, "4915:1", accountOf(one, all))
	require.Equal(t, "4915:12", accountOf(two, all))
	require.Equal(t, "4916", accountOf(other, all))
}

func TestResealInOurSchemaLeavesNothingWhereNoAccountIs(t *testing.T) {
	dsn := database(t)
	s := newShelf(t)
	aead := s.key("new.key")
	s.account("one.db")
	args := func(id string) []string {
		return []string{"-reseal", "-to", "postgres:" + dsn, "-account", id, "-seal", s.file("new.key")}
	}
	_, err := s.call(args("one")...)
	require.ErrorIs(t, err, postgresbackend.ErrNoSchema)
	require.Zero(t, schemas(t, connect(t, dsn)))

	_, err = s.call("-from", "local:"+s.file("one.db"), "-to", "postgres:"+dsn, "-account", "one")
	require.NoError(t, err)
	_, err = s.call(args("typo")...)
	require.ErrorIs(t, err, errNothing)
	typo := ours(t, dsn, "typo")
	defer typo.Close()
	clean, err := untouched(t.Context(), typo)
	require.NoError(t, err)
	require.True(t, clean)

	out, err := s.call(args("one")...)
	require.NoError(t, err)
	require.Contains(t, out, "Everything is sealed")
	one := ours(t, dsn, "one")
	defer one.Close()
	info, err := authstore.New(one.Auth, authstore.WithAEAD(aead)).Info(t.Context())
	require.NoError(t, err)
	require.True(t, info.Exists)
}
