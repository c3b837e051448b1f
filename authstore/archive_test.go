package authstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"
)

var archiveKey = [32]byte{1, 2, 3}

func exported(t testing.TB, src Source) []byte {
	t.Helper()
	var b bytes.Buffer
	var steps []Progress
	r, err := Export(bg, src, &b, archiveKey, OnProgress(func(p Progress) { steps = append(steps, p) }))
	require.NoError(t, err)
	require.Len(t, steps, importTables, "a step for each table")
	done := 0
	for i, p := range steps {
		require.Equal(t, i+1, p.Table)
		require.Equal(t, "export", p.Phase)
		done += p.Done
	}
	require.Equal(t, r.Rows, done)
	require.LessOrEqual(t, steps[len(steps)-1].Bytes, r.Bytes)
	require.EqualValues(t, b.Len(), r.Bytes)
	return b.Bytes()
}

func TestAnUnchangedDeviceIsRestoredAsItWas(t *testing.T) {
	kv, f := source(t, WithAEAD(NewAESGCM([32]byte{5})))
	src := FromKV("old", kv, f, WithAEAD(NewAESGCM([32]byte{5})))
	archive := exported(t, src)
	require.NotContains(t, string(archive), "name 3")
	to := newMapKV()
	r, err := Restore(bg, bytes.NewReader(archive), archiveKey, New(to), newFence(1), RestoredUnchanged())
	require.NoError(t, err)
	require.Empty(t, r.Warnings)
	require.Equal(t, r.Rows, r.Verified)
	require.Equal(t, tables(t, src), tables(t, FromKV("new", to, newFence(1))))
}

func TestARunningAccountIsExportedWithoutStopping(t *testing.T) {
	kv := newMapKV()
	c, d, f := open(t, kv)
	_, err := Export(bg, FromContainer(New(kv)), io.Discard, archiveKey)
	require.ErrorIs(t, err, ErrNoDevice)
	furnish(t, d)
	archive := exported(t, FromContainer(c))
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)), "it goes on")
	require.NoError(t, d.Sessions.DeleteSession(bg, "1:0"))
	require.NoError(t, c.Close(bg))
	a, err := readArchive(bytes.NewReader(archive), archiveKey)
	require.NoError(t, err)
	want := tables(t, FromKV("itself", kv, f))
	delete(want[specOf(tMisc).kind], sizesID) // is stored at the end
	require.Equal(t, want, tables(t, archiveSource{a}))
}

func TestARestoreUsesNothingTwice(t *testing.T) {
	kv, f := source(t)
	archive := exported(t, FromKV("old", kv, f))
	to := newMapKV()
	c := New(to)
	r, err := Restore(bg, bytes.NewReader(archive), archiveKey, c, newFence(1))
	require.NoError(t, err)
	require.Len(t, r.Warnings, 4)
	d, err := c.Device(bg, newFence(1))
	require.NoError(t, err)
	defer c.Close(bg)

	ok, err := d.Sessions.HasSession(bg, "15550100:0")
	require.NoError(t, err)
	require.False(t, ok, "a session's counters may have been used")
	own, err := d.SenderKeys.GetSenderKey(bg, "120363@g.us", d.GetLID().SignalAddress().String())
	require.NoError(t, err)
	require.Nil(t, own)
	others, err := d.SenderKeys.GetSenderKey(bg, "120363@g.us", "15550100:0")
	require.NoError(t, err)
	require.NotNil(t, others)
	trusted, err := d.Identities.IsTrustedIdentity(bg, "15550105:0", [32]byte{99})
	require.NoError(t, err)
	require.False(t, trusted, "identities are known still")

	n, err := d.PreKeys.UploadedPreKeyCount(bg)
	require.NoError(t, err)
	require.Zero(t, n, "so that new ones are uploaded at once")
	for id := uint32(1); id <= 20; id++ {
		k, err := d.PreKeys.GetPreKey(bg, id)
		require.NoError(t, err)
		require.NotNil(t, k, "what was begun with it still decrypts")
	}
	list, err := d.PreKeys.GetOrGenPreKeys(bg, 10)
	require.NoError(t, err)
	for _, k := range list {
		require.Greater(t, k.KeyID, uint32(restoredGap))
	}
	require.NoError(t, d.PreKeys.MarkPreKeysAsUploaded(bg, list[9].KeyID))
	n, err = d.PreKeys.UploadedPreKeyCount(bg)
	require.NoError(t, err)
	require.Equal(t, 10, n)
}

// TestADamagedArchiveRestoresNothing: cut, altered, reordered, repeated,
// continued, or opened with another key.
func TestADamagedArchiveRestoresNothing(t *testing.T) {
	kv, f := source(t)
	c, d, _ := open(t, kv)
	for i := range 40 { // more than two chunks
		require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(1), types.MessageID(rune('a'+i)), make([]byte, 5000)))
	}
	require.NoError(t, c.Close(bg))
	whole := exported(t, FromKV("old", kv, f))
	chunks := [][]byte{whole[:archiveHeader]}
	for rest := whole[archiveHeader:]; len(rest) > 0; {
		n := 4 + binary.BigEndian.Uint32(rest)
		chunks = append(chunks, rest[:n])
		rest = rest[n:]
	}
	require.GreaterOrEqual(t, len(chunks), 5)
	to := newMapKV()
	refused := func(archive []byte, key [32]byte, what string, at int) {
		t.Helper()
		_, err := Restore(bg, bytes.NewReader(archive), key, New(to), newFence(1))
		require.Truef(t, errors.Is(err, ErrArchive) || errors.Is(err, ErrNewerFormat), "%s at %d: %v", what, at, err)
		require.Zero(t, to.commits.Load())
	}
	refused(whole, [32]byte{7}, "another key", 0)
	refused(append(slices.Clone(whole), 0), archiveKey, "continued", 0)
	step := len(whole) / 300
	for at := 0; at < len(whole); at += 1 + step {
		refused(whole[:at], archiveKey, "cut", at)
		altered := slices.Clone(whole)
		altered[at] ^= 1
		refused(altered, archiveKey, "altered", at)
	}
	at := 0
	for i, c := range chunks { // at every boundary
		refused(whole[:at], archiveKey, "cut before chunk", i)
		at += len(c)
	}
	join := func(order ...int) []byte {
		var b []byte
		for _, i := range order {
			b = append(b, chunks[i]...)
		}
		return b
	}
	last := len(chunks) - 1
	refused(join(0, 2, 1, last), archiveKey, "reordered", 0)
	refused(join(0, 1, 1, last), archiveKey, "repeated", 0)
	refused(join(0, 1, last), archiveKey, "left out", 0)
	refused(join(0, last), archiveKey, "only the end", 0)
	other := exported(t, FromKV("old", kv, f))
	refused(append(slices.Clone(other[:archiveHeader]), whole[archiveHeader:]...), archiveKey, "another header", 0)

	failing := io.MultiReader(bytes.NewReader(whole[:len(whole)/2]), errReader{})
	_, err := Restore(bg, failing, archiveKey, New(to), newFence(1))
	require.ErrorContains(t, err, "the disk is gone")
	require.NotErrorIs(t, err, ErrArchive)

	_, err = Restore(bg, bytes.NewReader(whole), archiveKey, New(to), newFence(1))
	require.NoError(t, err, "and whole it is fine")
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("the disk is gone") }

func TestAnArchiveOfANewerLibraryIsRefused(t *testing.T) {
	kv, f := source(t)
	archive := exported(t, FromKV("old", kv, f))
	archive[len(archiveMagic)+1]++
	_, err := Restore(bg, bytes.NewReader(archive), archiveKey, New(newMapKV()), newFence(1))
	require.ErrorIs(t, err, ErrNewerFormat)

	var b bytes.Buffer
	w, err := newSealWriter(&b, archiveKey)
	require.NoError(t, err)
	require.NoError(t, writeRecord(w, recordMeta, "", []byte(`{"jid":"1:1@s.whatsapp.net"}`)))
	require.NoError(t, writeRecord(w, "hologram", "x", nil))
	require.NoError(t, w.Close())
	_, err = Restore(bg, &b, archiveKey, New(newMapKV()), newFence(1))
	require.ErrorIs(t, err, ErrNewerFormat)
}

// FuzzArchive: bytes of any content, sealed or not, are an archive or an
// error: no panic, and no allocation that the input did not pay for.
func FuzzArchive(f *testing.F) {
	kv := newMapKV()
	c := New(kv)
	fence := newFence(1)
	d, err := c.Device(bg, fence)
	require.NoError(f, err)
	pair(f, d, testJID(1))
	require.NoError(f, d.LIDs.PutLIDMapping(bg, types.NewJID("9", types.HiddenUserServer), types.NewJID("8", types.DefaultUserServer)))
	require.NoError(f, c.Close(bg))
	var b bytes.Buffer
	_, err = Export(bg, FromKV("seed", kv, fence), &b, archiveKey)
	require.NoError(f, err)
	f.Add(b.Bytes())
	r, err := newOpenReader(bytes.NewReader(b.Bytes()), archiveKey)
	require.NoError(f, err)
	plain, err := io.ReadAll(r)
	require.NoError(f, err)
	f.Add(plain)
	f.Add([]byte(strings.Repeat("\xff", 40)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, read := range []func() (*archive, error){
			func() (*archive, error) { return readArchive(bytes.NewReader(raw), archiveKey) },
			func() (*archive, error) { return readRecords(bytes.NewReader(raw)) },
		} {
			a, err := read()
			if err != nil {
				require.True(t, errors.Is(err, ErrArchive) || errors.Is(err, ErrNewerFormat), "%v", err)
				continue
			}
			_, err = a.rotate()
			require.NoError(t, err)
			for _, table := range importOrder() {
				im, err := archiveSource{a}.table(bg, table)
				require.NoError(t, err)
				_ = im.rowsIn(table)
				if table == tLID {
					_, err = mergeLIDs(nil, im, true)
					require.NoError(t, err)
				}
			}
		}
	})
}

// A backup of a running account is the account at one moment, whatever happens
// while it is written.
func TestBackupOfARunningAccountIsOfOneMoment(t *testing.T) {
	c, d, _ := open(t, newMapKV())
	furnish(t, d)
	v, err := FromContainer(c).open(bg)
	require.NoError(t, err)
	before := make(map[tableID]map[string][]byte)
	for t := range numTables {
		if sp := specOf(t); !sp.lazy && t != tHead {
			im, _ := v.table(bg, t)
			before[t] = im.rowsIn(t)
		}
	}
	_, _, err = d.Contacts.PutPushName(bg, testJID(3), "another name")
	require.NoError(t, err)
	require.NoError(t, d.Identities.PutIdentity(bg, "15550103:0", [32]byte{99}))
	require.NoError(t, d.EventBuffer.ClearBufferedEventPlaintext(bg, [32]byte{1}))
	require.NoError(t, d.PreKeys.RemovePreKey(bg, 3))
	require.NoError(t, d.Sessions.PutSession(bg, "15550103:0", validSession(t, 99)))
	for table, rows := range before {
		im, err := v.table(bg, table)
		require.NoError(t, err)
		require.Equal(t, rows, im.rowsIn(table), specOf(table).kind)
	}
}

// A backup of a source whose lock is lost on the way is none, also if it is lost
// with the last look.
func TestBackupFailsWhereverTheLockIsLost(t *testing.T) {
	kv, f := source(t)
	export := func(loseAt int) (looks int, err error) {
		f.lost.Store(false)
		kv.before.set(func(op string, _ Batch) error {
			if op == "scan" {
				looks++
				f.lost.CompareAndSwap(false, looks == loseAt)
			}
			return nil
		})
		_, err = Export(bg, FromKV("old", kv, f), io.Discard, archiveKey)
		return looks, err
	}
	all, err := export(0)
	require.NoError(t, err)
	for at := 1; at <= all; at++ {
		_, err := export(at)
		require.ErrorIs(t, err, ErrSourceInUse, "look %d of %d", at, all)
	}
}
