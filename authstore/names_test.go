package authstore

import (
	"bytes"
	"context"
	"maps"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	nameSeal  = WithAEAD(NewAESGCM([32]byte{5}))
	nameTests = Limits{MaxValue: 1500, MaxBatch: 8000, MaxKeys: 30}
)

// plainNames is a furnished and sealed account from before names were sealed.
func plainNames(t testing.TB) *mapKV {
	t.Helper()
	kv := newMapKV()
	kv.limits = nameTests
	kv.setEpoch(7)
	c, d, _ := open(t, kv)
	furnish(t, d)
	require.NoError(t, c.Close(bg))
	_, err := reseal(t.(*testing.T), kv, nameSeal, WithPlaintextAllowed())
	require.NoError(t, err)
	require.NotEmpty(t, telling(kv))
	return kv
}

// telling are the stored names that say who talks to whom. The name of a part has
// a checksum over that of its row, so it tells as much, and a part without a row
// may be of a plain one.
func telling(kv *mapKV) (out []Key) {
	kv.mu.Lock()
	defer kv.mu.Unlock()
	var parts []Key
	rows := make(map[string]bool) // beginnings of parts' names
	for k, v := range kv.data {
		if k.Kind == kindPart {
			parts = append(parts, k)
			continue
		}
		_, id := genAndID(k)
		private := k.Kind == kindQuarantine
		for _, t := range privateTables() {
			private = private || specOf(t).kind == k.Kind
		}
		sealed := isSealedName(id, []byte(v)) // whose hashes may have any digits
		if !sealed && (private || strings.Contains(k.ID, "1555") || strings.Contains(k.ID, "@") || strings.Contains(k.ID, "120363")) {
			out = append(out, k)
		} else {
			rows[strings.TrimSuffix(partKeys(k, manifest{count: 1})[0].ID, "-/0")] = true
		}
	}
	for _, k := range parts {
		if k.ID = k.ID[:max(strings.LastIndex(k.ID, "-"), 0)]; !rows[k.ID] { // without the random rest
			out = append(out, k)
		}
	}
	return out
}

func moving(t testing.TB, kv *mapKV) bool {
	t.Helper()
	h, err := New(kv, nameSeal).readHead(bg)
	require.NoError(t, err)
	return h.Names != nil && h.Names.Moving
}

func content(t testing.TB, kv *mapKV) map[Kind]map[string][]byte {
	t.Helper()
	return tables(t, FromKV("kv", kv, newFence(kv.epoch), nameSeal))
}

func TestSealedAccountHasNoAddressInItsNames(t *testing.T) {
	kv := newMapKV()
	kv.limits = nameTests
	c, d, _ := open(t, kv, nameSeal)
	furnish(t, d)
	c, d, _ = reopen(t, kv, c, nameSeal)
	require.Empty(t, telling(kv))
	require.False(t, moving(t, kv))
	c.cfg.background.Wait() // a look for parts without an owner
	reads, commits, puts := kv.Reads(), kv.Commits(), kv.puts.Load()
	_, err := d.SenderKeys.GetSenderKey(bg, "120363@g.us", "15550104:0")
	require.NoError(t, err)
	require.EqualValues(t, 1, kv.Reads()-reads, "one look")
	require.NoError(t, d.Sessions.PutSession(bg, "15550104:0", validSession(t, 99)))
	require.EqualValues(t, 1, kv.Commits()-commits)
	require.EqualValues(t, 1, kv.puts.Load()-puts)
	secret, _, err := d.MsgSecrets.GetMessageSecret(bg, testJID(1), testJID(2), "M1")
	require.NoError(t, err)
	require.Equal(t, []byte{2, 1}, secret)
	require.NoError(t, c.Close(bg))

	// The same account elsewhere has other names.
	other := newMapKV()
	c, d, _ = open(t, other, nameSeal)
	require.NoError(t, d.Sessions.PutSession(bg, "15550104:0", validSession(t, 99)))
	require.NoError(t, c.Close(bg))
	for k := range other.data {
		if k.Kind == "session" {
			require.NotContains(t, kv.data, k)
		}
	}
}

func TestLibraryWithoutSealedNamesLeavesTheAccountAlone(t *testing.T) {
	kv := plainNames(t)
	before := kv.data[headKey()]
	require.Zero(t, before[1]&^(flagSealed|flagSplit|flagLongID), "an older library reads this")
	c, _, _ := open(t, kv, nameSeal, WithSealedNames())
	require.NoError(t, c.Close(bg))
	after := kv.data[headKey()]
	require.NotZero(t, after[1]&^(flagSealed|flagSplit|flagLongID), "and finds a newer format here")

	kv.data[headKey()] = after[:1] + string(after[1]|1<<7) + after[2:]
	_, err := New(kv, nameSeal).Device(bg, newFence(kv.epoch))
	require.ErrorIs(t, err, ErrNewerFormat, "as any library does with flags from the future")
}

func TestPlainNamesStayUntilToldOtherwise(t *testing.T) {
	kv := plainNames(t)
	want, names := content(t, kv), telling(kv)
	c, d, _ := open(t, kv, nameSeal)
	_, err := d.SenderKeys.GetSenderKey(bg, "120363@g.us", "15550104:0")
	require.NoError(t, err)
	require.NoError(t, c.Close(bg))
	require.NoError(t, New(kv, nameSeal).Reseal(bg, newFence(kv.epoch), nil))
	require.ElementsMatch(t, names, telling(kv), "an older library may have its turn")
	require.Equal(t, want, content(t, kv))
	// Without sealing there is nothing to seal the names with.
	plain := newMapKV()
	c, d, _ = open(t, plain, WithSealedNames())
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
	require.NoError(t, c.Close(bg))
	require.Contains(t, plain.data, Key{"session", "d0/1:0"})
}

func TestDamagedRowUnderPlainNameIsSetAside(t *testing.T) {
	kv := plainNames(t)
	kv.data[Key{"session", "d0/15550101:0"}] = "\x01\x00damaged"
	kv.data[Key{"senderkey", "d0/15550102:0/120363@g.us"}] = "\x01\x00damaged"
	c, d, _ := open(t, kv, nameSeal, WithSealedNames())
	require.NoError(t, d.Sessions.PutSession(bg, "15550101:0", validSession(t, 9)))
	c.cfg.background.Wait()
	c, d, _ = reopen(t, kv, c, nameSeal)
	require.Empty(t, telling(kv))
	require.Equal(t, 2, kv.count(kindQuarantine))
	s, err := d.Sessions.GetSession(bg, "15550101:0")
	require.NoError(t, err)
	require.EqualValues(t, 9, sessionCounter(t, s))
	k, err := d.SenderKeys.GetSenderKey(bg, "120363@g.us", "15550102:0")
	require.NoError(t, err)
	require.Nil(t, k)
	require.NoError(t, c.Close(bg))
}

// A row that cannot be opened is not lost: the account stays half moved.
func TestRowOfANewerFormatKeepsItsPlainName(t *testing.T) {
	kv := plainNames(t)
	future := Key{"senderkey", "d0/15550102:0/120363@g.us"}
	kv.data[future] = "\x02" + kv.data[future][1:]
	raw := kv.data[future]
	err := New(kv, nameSeal, WithSealedNames()).Reseal(bg, newFence(kv.epoch), nil)
	require.ErrorIs(t, err, ErrNewerFormat)
	c, d, _ := open(t, kv, nameSeal, WithSealedNames())
	require.Error(t, storeOf(d).moveNames(bg))
	require.Equal(t, []Key{future}, telling(kv))
	require.Equal(t, raw, kv.data[future])
	require.True(t, moving(t, kv))
	_, err = d.SenderKeys.GetSenderKey(bg, "120363@g.us", "15550102:0")
	require.ErrorIs(t, err, ErrNewerFormat)
	require.NoError(t, c.Close(bg))
}

func TestRowUnderAMissingKeyKeepsItsPlainName(t *testing.T) {
	kv := plainNames(t)
	ours, missing := NewAESGCM([32]byte{5}), NewAESGCM([32]byte{6})
	lost := Key{"senderkey", "d0/15550102:0/120363@g.us"}
	_, body, err := codec{aead: ours, opener: ours}.openForReseal(kv, nil, lost, []byte(kv.data[lost]))
	require.NoError(t, err)
	raw, err := codec{aead: missing}.wrap(lost, body.flags, body.data)
	require.NoError(t, err)
	kv.data[lost] = string(raw)
	c, d, _ := open(t, kv, nameSeal, WithSealedNames())
	require.Error(t, storeOf(d).moveNames(bg))
	require.NoError(t, c.Close(bg))
	require.Equal(t, []Key{lost}, telling(kv))
	require.Equal(t, string(raw), kv.data[lost])
	require.Zero(t, kv.count(kindQuarantine))
}

func TestImportAndArchiveGiveSealedNames(t *testing.T) {
	kv := plainNames(t)
	f := newFence(kv.epoch)
	want := content(t, kv)
	src := FromKV("old", kv, f, nameSeal)
	to := newMapKV()
	_, err := Import(bg, src, New(to, nameSeal), newFence(1))
	require.NoError(t, err)
	require.Empty(t, telling(to))
	require.False(t, moving(t, to))
	require.Equal(t, want, content(t, to))

	var archive bytes.Buffer
	_, err = Export(bg, FromKV("new", to, newFence(1), nameSeal), &archive, [32]byte{1})
	require.NoError(t, err)
	for _, opts := range [][]Option{nil, {nameSeal}} {
		back := newMapKV()
		_, err = Restore(bg, bytes.NewReader(archive.Bytes()), [32]byte{1}, New(back, opts...), newFence(1), RestoredUnchanged())
		require.NoError(t, err)
		require.Equal(t, want, tables(t, FromKV("back", back, newFence(1), opts...)))
		require.Equal(t, opts == nil, len(telling(back)) > 0, "without sealing names are plain")
	}
	// A source that was retired still says so, and comes back.
	_, err = Import(bg, FromKV("new", to, newFence(1), nameSeal), New(newMapKV(), nameSeal), newFence(1), RetireSource())
	require.NoError(t, err)
	require.NoError(t, New(to, nameSeal).Restore(bg, newFence(1)))
	require.Equal(t, want, content(t, to))
}

// An import that an older library began, or that was begun under another key
// for names, is completed, and leaves no row in two places.
func TestUnfinishedImportIsFinishedUnderSealedNames(t *testing.T) {
	kv := plainNames(t)
	src := FromKV("old", kv, newFence(kv.epoch), nameSeal)
	want := content(t, kv)
	begin := func(to *mapKV, c *Container) {
		ctx, cancel := context.WithCancel(bg)
		_, err := Import(ctx, src, c, newFence(1), OnProgress(func(p Progress) {
			if p.Kind == "token" {
				cancel()
			}
		}))
		require.ErrorIs(t, err, context.Canceled)
		require.Positive(t, to.count("session"))
	}
	finish := func(to *mapKV, opts ...ImportOption) {
		r, err := Import(bg, src, New(to, nameSeal), newFence(1), opts...)
		require.NoError(t, err)
		require.True(t, r.Resumed)
		c, _, _ := open(t, to, nameSeal)
		c.cfg.background.Wait()
		require.NoError(t, c.Close(bg))
		require.Empty(t, telling(to))
		require.Equal(t, 30, to.count("session"))
		got := content(t, to)
		delete(got, "lid")
		wanted := maps.Clone(want)
		delete(wanted, "lid")
		require.Equal(t, wanted, got)
	}
	older := newMapKV()
	begin(older, New(older)) // plain names, as before
	_, err := reseal(t, older, nameSeal, WithPlaintextAllowed())
	require.NoError(t, err)
	finish(older)

	newer := newMapKV()
	begin(newer, New(newer, nameSeal))
	manifest := newer.data[importKey()]
	require.NotZero(t, manifest[1]&flagNames, "an older library leaves it alone")
	c, _, _ := open(t, newer, nameSeal) // paired in between: another key
	require.NoError(t, c.Close(bg))
	finish(newer, ReplaceDevice())

	dropped := newMapKV()
	begin(dropped, New(dropped, nameSeal))
	require.NoError(t, DropImport(bg, New(dropped, nameSeal), newFence(1)))
	require.Empty(t, dropped.data)
}

// A stranger whose id looks like a sealed name gets one all the same.
func TestIDThatLooksSealedIsMoved(t *testing.T) {
	fake := sealedMark + strings.Repeat("ab", sealedSize)
	kv := newMapKV()
	c, d, _ := open(t, kv)
	require.NoError(t, d.Sessions.PutSession(bg, fake, validSession(t, 1)))
	require.NoError(t, c.Close(bg))
	_, err := reseal(t, kv, nameSeal, WithPlaintextAllowed())
	require.NoError(t, err)
	require.NoError(t, New(kv, nameSeal, WithSealedNames()).Reseal(bg, newFence(1), nil))
	require.NotContains(t, kv.data, Key{"session", "d0/" + fake})
	_, d, _ = open(t, kv, nameSeal)
	s, err := d.Sessions.GetSession(bg, fake)
	require.NoError(t, err)
	require.NotNil(t, s)
}

func TestNamesStayFoundWhenSealingIsRemoved(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv, nameSeal)
	furnish(t, d)
	require.NoError(t, c.Close(bg))
	want := content(t, kv)
	_, err := reseal(t, kv, WithSealingRemoved(NewAESGCM([32]byte{5})))
	require.NoError(t, err)
	require.Equal(t, want, tables(t, FromKV("kv", kv, newFence(kv.epoch))))
	c, d, _ = open(t, kv)
	key, err := d.SenderKeys.GetSenderKey(bg, "120363@g.us", "15550104:0")
	require.NoError(t, err)
	require.NotNil(t, key)
	require.NoError(t, c.Close(bg))
}

// A kill between two batches may leave a row under both names.
func TestSealedNameHasTheNewerOfTwoRows(t *testing.T) {
	kv := plainNames(t)
	old := make(map[Key]string)
	for _, k := range []Key{{"session", "d0/15550103:0"}, {"senderkey", "d0/15550103:0/120363@g.us"}} {
		require.Contains(t, kv.data, k)
		old[k] = kv.data[k]
	}
	c, d, f := open(t, kv, nameSeal, WithSealedNames())
	require.NoError(t, d.Sessions.PutSession(bg, "15550103:0", validSession(t, 500)))
	require.NoError(t, d.SenderKeys.PutSenderKey(bg, "120363@g.us", "15550103:0", validSenderKey([]byte("newer"))))
	c.cfg.background.Wait()
	require.NoError(t, c.Close(bg))
	c = New(kv, nameSeal)
	h, err := c.readHead(bg)
	require.NoError(t, err)
	h.Names.Moving = true
	require.NoError(t, c.putHead(bg, f, nil, h))
	maps.Copy(kv.data, old)

	want := content(t, kv)
	require.Len(t, want["session"], 30)
	c, d, _ = open(t, kv, nameSeal)
	check := func() {
		s, err := d.Sessions.GetSession(bg, "15550103:0")
		require.NoError(t, err)
		require.EqualValues(t, 500, sessionCounter(t, s))
		k, err := d.SenderKeys.GetSenderKey(bg, "120363@g.us", "15550103:0")
		require.NoError(t, err)
		require.Equal(t, validSenderKey([]byte("newer")), k)
	}
	check()
	c.cfg.background.Wait()
	require.Empty(t, telling(kv))
	c, d, _ = reopen(t, kv, c, nameSeal)
	check()
	require.NoError(t, c.Close(bg))
	require.Equal(t, want, content(t, kv))
}
