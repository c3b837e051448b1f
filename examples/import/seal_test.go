package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
)

// shelf is a folder with the files of a test.
type shelf struct {
	t   *testing.T
	dir string
}

func newShelf(t *testing.T) shelf { return shelf{t, t.TempDir()} }

func (s shelf) file(name string) string { return filepath.Join(s.dir, name) }

func (s shelf) read(name string) []byte {
	s.t.Helper()
	data, err := os.ReadFile(s.file(name))
	require.NoError(s.t, err)
	return data
}

func (s shelf) names() (all []string) {
	s.t.Helper()
	entries, err := os.ReadDir(s.dir)
	require.NoError(s.t, err)
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// key makes a file with a key.
func (s shelf) key(name string) authstore.AEAD {
	s.t.Helper()
	var k [32]byte
	_, _ = rand.Read(k[:])
	require.NoError(s.t, os.WriteFile(s.file(name), k[:], 0o600))
	return authstore.NewAESGCM(k)
}

func (s shelf) call(args ...string) (string, error) {
	var out strings.Builder
	err := run(s.t.Context(), args, &out, io.Discard)
	return out.String(), err
}

// account puts an account, plain, into a file.
func (s shelf) account(name string) {
	s.t.Helper()
	newWorld(s.t).onSQLiteFile(s.file("wa.db"))
	_, err := s.call("-from", "sqlite:"+s.file("wa.db"), "-to", "local:"+s.file(name), "-stopped", "-keep")
	require.NoError(s.t, err)
}

// within opens a file with options while f looks at it.
func (s shelf) within(name string, f func(*account, *authstore.Container), opts ...authstore.Option) {
	s.t.Helper()
	a, err := openLocal(s.t.Context(), s.file(name))
	require.NoError(s.t, err)
	defer func() { require.NoError(s.t, a.close()) }()
	f(a, authstore.New(a.backend.Auth, opts...))
}

func (s shelf) info(name string, opts ...authstore.Option) (info authstore.Info) {
	s.t.Helper()
	s.within(name, func(_ *account, c *authstore.Container) {
		var err error
		info, err = c.Info(s.t.Context())
		require.NoError(s.t, err)
	}, opts...)
	return info
}

// entries counts what a file has; every row is read.
func (s shelf) entries(name string, opts ...authstore.Option) (n map[authstore.Kind]int) {
	s.t.Helper()
	s.within(name, func(a *account, c *authstore.Container) {
		r, err := authstore.Import(s.t.Context(), authstore.FromKV(name, a.backend.Auth, a.fence, opts...), c, a.fence, authstore.DryRun(), authstore.ReplaceDevice())
		require.NoError(s.t, err)
		require.Empty(s.t, r.Warnings)
		n = r.Entries
	}, opts...)
	return n
}

func TestADryRunIsRefusedWhereItWouldWrite(t *testing.T) {
	s := newShelf(t)
	s.key("seal.key")
	s.key("archive.key")
	s.account("one.db")
	require.NoError(t, os.WriteFile(s.file("backup.bin"), []byte("an older one"), 0o600))
	account, names := s.read("one.db"), s.names()
	for _, args := range [][]string{
		{"-reseal", "-to", "local:" + s.file("one.db"), "-seal", s.file("seal.key")},
		{"-from", "local:" + s.file("one.db"), "-to", "archive:" + s.file("backup.bin"), "-key", s.file("archive.key")},
	} {
		_, err := s.call(append(args, "-dry-run")...)
		require.EqualError(t, err, "-dry-run is for a move or a restore: leave it out")
		require.Equal(t, account, s.read("one.db"))
		require.Equal(t, "an older one", string(s.read("backup.bin")))
		require.Equal(t, names, s.names())
	}
}

// broken cancels at the first line that holds mark.
type broken struct {
	mark   string
	cancel context.CancelCauseFunc
}

var errBroken = errors.New("broken off")

func (b broken) Write(p []byte) (int, error) {
	if strings.Contains(string(p), b.mark) {
		b.cancel(errBroken)
	}
	return len(p), nil
}

func TestABackupThatFailsHalfWayLeavesTheOlderOne(t *testing.T) {
	s := newShelf(t)
	s.key("archive.key")
	s.account("one.db")
	args := []string{"-from", "local:" + s.file("one.db"), "-to", "archive:" + s.file("backup.bin"), "-key", s.file("archive.key")}
	_, err := s.call(args...)
	require.NoError(t, err)
	older, names := s.read("backup.bin"), s.names()

	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	require.ErrorIs(t, run(ctx, args, broken{"table 5 of", cancel}, io.Discard), errBroken)
	require.Equal(t, older, s.read("backup.bin"))
	require.Equal(t, names, s.names(), "nothing stays of the one that failed")

	_, err = s.call(args...)
	require.NoError(t, err)
	require.NotEqual(t, older, s.read("backup.bin"))
	require.Equal(t, names, s.names())
}

func TestResealNeedsItsKeysAndAnAccountAndLeavesNoFile(t *testing.T) {
	s := newShelf(t)
	s.key("new.key")
	require.NoError(t, os.WriteFile(s.file("short.key"), make([]byte, 31), 0o600))
	s.within("empty.db", func(*account, *authstore.Container) {}) // its lock was taken, and that is all
	names := s.names()
	for want, args := range map[string][]string{
		"-seal names a file":                 {"-to", "local:" + s.file("typo.db")},
		"short.key has 31 bytes":             {"-to", "local:" + s.file("typo.db"), "-seal", s.file("new.key"), "-unseal", s.file("short.key")},
		"no account to seal: stat":           {"-to", "local:" + s.file("typo.db"), "-seal", s.file("new.key")},
		"-to: there is no account to seal":   {"-to", "local:" + s.file("empty.db"), "-seal", s.file("new.key")},
		"-reseal pass postgres:DSN, local:P": {"-to", "archive:" + s.file("typo.db"), "-seal", s.file("new.key")},
		"pass postgres:DSN, local:PATH or":   {"-to", "local:", "-seal", s.file("new.key")},
	} {
		out, err := s.call(append(args, "-reseal")...)
		require.Equal(t, names, s.names(), want)
		require.ErrorContains(t, err, want)
		require.Empty(t, out)
	}
}

func TestResealSealsADeletedDeviceThatCanBeRestored(t *testing.T) {
	s := newShelf(t)
	aead := s.key("new.key")
	s.account("one.db")
	_, err := s.call("-from", "local:"+s.file("one.db"), "-to", "local:"+s.file("two.db"))
	require.NoError(t, err)
	out, err := s.call("-reseal", "-to", "local:"+s.file("one.db"), "-seal", s.file("new.key"))
	require.NoError(t, err)
	require.Contains(t, out, "Everything is sealed")
	require.True(t, s.info("one.db", authstore.WithAEAD(aead)).Deleted)
}

// Each row that is written is sealed, whatever the source is; and the program of the
// source, with its own options, finds that the device has moved.
func TestASourceMovesIntoASealedPlacePlainOrSealed(t *testing.T) {
	s := newShelf(t)
	aead := s.key("seal.key")
	s.key("other.key")
	s.key("archive.key")
	seal, allowed := authstore.WithAEAD(aead), authstore.WithPlaintextAllowed()
	s.account("plain.db")
	have := s.entries("plain.db")
	copied := func(from, to string) { require.NoError(t, os.WriteFile(s.file(to), s.read(from), 0o600)) }
	copied("plain.db", "sealed.db")
	_, err := s.call("-reseal", "-to", "local:"+s.file("sealed.db"), "-seal", s.file("seal.key"))
	require.NoError(t, err)
	// A file whose record of the account is that of another, as after a Reseal that
	// was broken off, or while plain rows are sealed as they are written.
	mixed := func(rows, head, to string) {
		var record []authstore.Entry
		s.within(head, func(a *account, _ *authstore.Container) {
			for e, err := range a.backend.Auth.Scan(t.Context(), "account", "") {
				require.NoError(t, err)
				record = append(record, e)
			}
		})
		require.Len(t, record, 1)
		copied(rows, to)
		s.within(to, func(a *account, _ *authstore.Container) {
			require.NoError(t, a.backend.Auth.Commit(t.Context(), a.fence.Epoch(), authstore.Batch{Put: record}))
		})
	}
	copied("plain.db", "plain.old.db")
	copied("sealed.db", "sealed.old.db")
	mixed("plain.db", "sealed.db", "begun.old.db")
	mixed("sealed.db", "plain.db", "turned on.old.db")
	for _, c := range []struct {
		name string
		own  []authstore.Option // those of the program that uses the source
	}{
		{"plain", nil}, {"sealed", []authstore.Option{seal}},
		{"begun", []authstore.Option{seal, allowed}}, {"turned on", []authstore.Option{seal, allowed}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := shelf{t, s.dir}
			old, backup, target := c.name+".old.db", c.name+".bin", c.name+".new.db"
			_, err := s.call("-from", "local:"+s.file(old), "-to", "archive:"+s.file(backup), "-key", s.file("archive.key"), "-seal", s.file("seal.key"))
			require.NoError(t, err)
			if c.own != nil {
				_, err = s.call("-from", "local:"+s.file(old), "-to", "local:"+s.file(c.name+".other.db"), "-seal", s.file("other.key"))
				require.ErrorIs(t, err, authstore.ErrWrongKey)
				_, err = s.call("-from", "local:"+s.file(old), "-to", "local:"+s.file(c.name+".none.db"))
				require.ErrorContains(t, err, "(here: -seal)")
			}
			_, err = s.call("-from", "local:"+s.file(old), "-to", "local:"+s.file(target), "-seal", s.file("seal.key"))
			require.NoError(t, err)
			require.Equal(t, have, s.entries(target, seal), "all of it is sealed")
			require.True(t, s.info(old, c.own...).Deleted)
		})
	}

	// A target that is plain stays plain: it says how it can be sealed.
	_, err = s.call("-from", "local:"+s.file("plain.new.db"), "-to", "local:"+s.file("plain.db"), "-seal", s.file("seal.key"), "-replace")
	require.ErrorIs(t, err, authstore.ErrNotSealed)
	require.ErrorContains(t, err, "with -reseal")
	require.Equal(t, have, s.entries("plain.db"))
}
