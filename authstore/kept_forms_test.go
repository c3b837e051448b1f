package authstore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// A value that is sealed, restored, resealed or replaced is the same as before, or an error.

// One who can write to the store turns the flags of a sealed row, and makes its sum
// right. What was sealed as one form is read as no other.
func TestFlagsOfASealedRowAreSealed(t *testing.T) {
	kv := filled(t, nameSeal)
	cd := New(kv, nameSeal, WithPlaintextAllowed()).cfg.codec
	n := 0
	for k, v := range kv.data {
		for bit := range 8 {
			forged := []byte(v)
			forged[1] ^= 1 << bit
			sum := checksum(k, forged[:headerSize], forged[headerSize+sumSize:])
			binary.LittleEndian.PutUint32(forged[headerSize:], sum)
			if forged[1]&flagSealed == 0 {
				continue // plain: whoever allows that, gets what stands there
			}
			_, err := cd.decode(k, k.ID, forged)
			require.Error(t, err, "%s, flags %#x", k.Kind, forged[1])
			n++
		}
	}
	require.Greater(t, n, 100)
}

// Each chat setting is kept, and none of them changes another.
func TestEachChatSettingIsKept(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	chat := types.NewJID("1", types.DefaultUserServer)
	until := time.Unix(1_900_000_000, 0)
	want := types.LocalChatSettings{Found: true}
	for _, step := range []func() error{
		func() error { want.Archived = true; return d.ChatSettings.PutArchived(bg, chat, true) },
		func() error { want.Pinned = true; return d.ChatSettings.PutPinned(bg, chat, true) },
		func() error { want.MutedUntil = until; return d.ChatSettings.PutMutedUntil(bg, chat, until) },
		func() error { want.Archived = false; return d.ChatSettings.PutArchived(bg, chat, false) },
		func() error { want.Archived = true; return d.ChatSettings.PutArchived(bg, chat, true) },
		func() error { want.Pinned = false; return d.ChatSettings.PutPinned(bg, chat, false) },
		func() error {
			want.MutedUntil = store.MutedForever
			return d.ChatSettings.PutMutedUntil(bg, chat, store.MutedForever)
		},
		func() error {
			want.MutedUntil = time.Time{}
			return d.ChatSettings.PutMutedUntil(bg, chat, time.Time{})
		},
	} {
		require.NoError(t, step())
		for range 2 {
			got, err := d.ChatSettings.GetChatSettings(bg, chat)
			require.NoError(t, err)
			require.True(t, want.MutedUntil.Equal(got.MutedUntil), "%v, want %v", got.MutedUntil, want.MutedUntil)
			got.MutedUntil = want.MutedUntil
			require.Equal(t, want, got)
			c, d, _ = reopen(t, kv, c)
		}
	}
}

// A message that is sent again under its id is found as it was sent last.
func TestMessageSentAgainIsFoundAsItWasSentLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		chat := types.NewJID("1", types.DefaultUserServer)
		keep := func(id, text string) {
			require.NoError(t, storeOf(d).KeepSent(bg, chat, id, []byte(text)))
			time.Sleep(time.Second)
		}
		sent := func() string {
			v, err := storeOf(d).Sent(bg, chat, types.JID{}, "X")
			require.NoError(t, err)
			return string(v)
		}
		keep("X", "older")
		for i := range packedCount { // its row is full
			keep(fmt.Sprint("filler", i), "text")
		}
		keep("X", "newer")
		require.Equal(t, "newer", sent())
		require.NoError(t, storeOf(d).flush("test"))
		time.Sleep(packedWait)
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
		d = killed(t, kv)
		require.Equal(t, "newer", sent())
	})
}

// A restored device begins behind every prekey that may have been given out.
func TestRestoredDeviceGivesNoPreKeyTwice(t *testing.T) {
	kv := newMapKV()
	c, d, f := open(t, kv)
	const next = 3 * restoredGap
	require.NoError(t, storeOf(d).write(bg, "test", put(tMisc, nextPreKey, binary.LittleEndian.AppendUint32(nil, next))))
	_, err := d.PreKeys.GetOrGenPreKeys(bg, 3)
	require.NoError(t, err)
	require.NoError(t, c.Close(bg))
	archive := exported(t, FromKV("old", kv, f))
	c = New(newMapKV())
	defer c.Close(bg)
	_, err = Restore(bg, bytes.NewReader(archive), archiveKey, c, newFence(1))
	require.NoError(t, err)
	d, err = c.Device(bg, newFence(1))
	require.NoError(t, err)
	list, err := d.PreKeys.GetOrGenPreKeys(bg, 3)
	require.NoError(t, err)
	for _, k := range list {
		require.Greater(t, k.KeyID, uint32(next+3+restoredGap-1))
	}
}

// A call that fails once while keys are changed leaves no row under the old key
// unsaid.
func TestResealWhoseReadFailsOnceSaysSo(t *testing.T) {
	old, both := WithAEAD(NewAESGCM(keyOf(1))), WithAEAD(NewAESGCM(keyOf(2), keyOf(1)))
	full := newMapKV()
	full.limits = Limits{MaxValue: 4096, MaxBatch: 16_000, MaxKeys: 20}
	c, d, _ := open(t, full, old)
	fill(t, d)
	require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, [32]byte{7}, make([]byte, 20_000), time.Unix(1, 0)))
	require.NoError(t, c.Close(bg))
	for at, calls := 0, 1; at < calls; at++ {
		kv := newMapKV()
		kv.data, kv.limits = maps.Clone(full.data), full.limits
		calls = 0
		kv.before.set(func(op string, _ Batch) error {
			if calls++; calls == at+1 && op != "commit" {
				return errDown
			}
			return nil
		})
		_, err := reseal(t, kv, both)
		kv.before.set(nil)
		if err != nil {
			require.ErrorIs(t, err, errDown)
			continue
		}
		c, d, _ := open(t, kv, WithAEAD(NewAESGCM(keyOf(2))))
		useAll(t, d)
		require.NoError(t, c.Close(bg))
	}
}

// A session or sender key that libsignal panics on counts as one that does not
// parse: with the panic the process would end at each start.
func TestKeyOnWhichLibsignalPanicsIsDamaged(t *testing.T) {
	for _, text := range []string{"null", "{}", "[]", `{"SenderKeyStates":[null]}`, `{"SenderKeyStates":[{}]}`, `{"SenderKeyStates":[{"KeyID":1}]}`,
		`{"SessionState":null}`, `{"SessionState":{}}`, `{"SessionState":{"RootKey":"x"},"PreviousStates":[null]}`} {
		require.NotPanics(t, func() { _ = parseSenderKey([]byte(text)) }, text)
		require.NotPanics(t, func() { _ = parseSession([]byte(text)) }, text)
	}
}
