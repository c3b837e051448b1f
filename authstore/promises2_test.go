package authstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// A key that moved to a LID is nowhere else, also where it was not used lately,
// and however full the cache is when the move looks it up.
func TestMovedSenderKeyIsGoneFromEveryHalfOfTheCache(t *testing.T) {
	pn, lid := testJID(2), types.JID{User: "902", Device: 1, Server: types.HiddenUserServer}
	moved := validSenderKey(make([]byte, 150))
	for more, whole := 0, false; !whole; more++ { // keys that are used afterwards; each is smaller than the one that moves
		kv := newMapKV()
		c, d, _ := open(t, kv, WithSenderKeyCache(4000))
		key := func(addr string) []byte {
			t.Helper()
			v, err := d.SenderKeys.GetSenderKey(bg, "1@g.us", addr)
			require.NoError(t, err)
			return v
		}
		other := func(n int) {
			require.NoError(t, d.SenderKeys.PutSenderKey(bg, "1@g.us", testJID(n).SignalAddress().String(), validSenderKey(make([]byte, 50))))
		}
		require.NoError(t, d.SenderKeys.PutSenderKey(bg, "1@g.us", pn.SignalAddress().String(), moved))
		s := storeOf(d)
		older := func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			_, ok := s.keys.older[senderKeyID("1@g.us", pn.SignalAddress().String())]
			return ok
		}
		n := 10
		for ; !older(); n++ {
			require.Less(t, n, 1000)
			other(n)
		}
		for i := range more {
			other(n + i)
		}
		if whole = !older(); !whole { // until that half was used up
			require.NoError(t, d.Sessions.MigratePNToLID(bg, pn, lid))
			require.Nil(t, key(pn.SignalAddress().String()), "%d more", more)
			require.Equal(t, moved, key(lid.SignalAddress().String()))
		}
		require.False(t, whole && more < 10)
		require.NoError(t, c.Close(bg))
	}
}

// The reason of a deletion is that of its own.
func TestReasonBelongsToOneDeletion(t *testing.T) {
	kv := newMapKV()
	c, d, f := open(t, kv)
	reason := func() string {
		t.Helper()
		info, err := New(kv).Info(bg)
		require.NoError(t, err)
		require.True(t, info.Deleted)
		return info.Reason
	}
	c.SetDeleteReason("logged out")
	require.NoError(t, d.Delete(bg))
	require.Equal(t, "logged out", reason())
	require.NoError(t, c.Restore(bg, f))
	d, err := c.Device(bg, f)
	require.NoError(t, err)
	require.NoError(t, d.Delete(bg))
	require.Empty(t, reason())
}

// The device of an address stays when the number becomes a LID and back.
func TestMappingKeepsTheDevice(t *testing.T) {
	_, d, _ := open(t, newMapKV())
	pn, lid := types.NewJID("15550002", types.DefaultUserServer), types.NewJID("902", types.HiddenUserServer)
	require.NoError(t, d.LIDs.PutLIDMapping(bg, lid, pn))
	for device := range uint16(3) {
		pn.Device, lid.Device = device, device
		got, err := d.LIDs.GetLIDForPN(bg, pn)
		require.NoError(t, err)
		require.Equal(t, lid, got)
		got, err = d.LIDs.GetPNForLID(bg, lid)
		require.NoError(t, err)
		require.Equal(t, pn, got)
		many, err := d.LIDs.GetManyLIDsForPNs(bg, []types.JID{pn, testJID(77)})
		require.NoError(t, err)
		require.Equal(t, map[types.JID]types.JID{pn: lid}, many)
	}
}

// A contact has two names, and may have given a token under each.
func TestNewestTokenOfEitherNameIsUsed(t *testing.T) {
	_, d, _ := open(t, newMapKV())
	pn, lid := types.NewJID("15550002", types.DefaultUserServer), types.NewJID("902", types.HiddenUserServer)
	require.NoError(t, d.LIDs.PutLIDMapping(bg, lid, pn))
	for _, c := range []struct {
		user types.JID
		at   int64
		want string
	}{{pn, 5, "5"}, {lid, 7, "7"}, {pn, 6, "7"}, {pn, 9, "9"}, {lid, 8, "9"}} {
		require.NoError(t, d.PrivacyTokens.PutPrivacyTokens(bg, store.PrivacyToken{User: c.user, Token: []byte{byte('0' + c.at)}, Timestamp: time.Unix(c.at, 0)}))
		for _, user := range []types.JID{pn, lid} {
			token, err := d.PrivacyTokens.GetPrivacyToken(bg, user)
			require.NoError(t, err)
			require.Equal(t, c.want, string(token.Token))
		}
	}
}

// A chat and a sender have two names each, and what came under one is found under
// the other. The sender's name goes into the key, so it is the one of the time.
func TestSecretIsFoundUnderEveryPairOfNames(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	chats := []types.JID{types.NewJID("15550002", types.DefaultUserServer), types.NewJID("902", types.HiddenUserServer)}
	senders := []types.JID{types.NewJID("15550003", types.DefaultUserServer), types.NewJID("903", types.HiddenUserServer)}
	for _, names := range [][]types.JID{chats, senders} {
		require.NoError(t, d.LIDs.PutLIDMapping(bg, names[1], names[0]))
	}
	group := types.NewJID("1", types.GroupServer)
	type entry struct {
		id           string
		chat, sender types.JID
	}
	var all []entry
	for i, chat := range append(chats, group) {
		for j, sender := range senders {
			e := entry{fmt.Sprint(i, j), chat, sender}
			all = append(all, e)
			sender.Device = 3
			require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, chat, sender, types.MessageID(e.id), []byte(e.id)))
		}
	}
	for range 2 { // from memory, and from the store
		for _, e := range all {
			asked := chats
			if e.chat == group {
				asked = []types.JID{group}
			}
			for _, chat := range asked {
				for _, sender := range senders {
					sender.Device = 5
					secret, from, err := d.MsgSecrets.GetMessageSecret(bg, chat, sender, types.MessageID(e.id))
					require.NoError(t, err)
					require.Equal(t, e.id, string(secret), "%v %v", chat, sender)
					require.Equal(t, e.sender, from)
				}
			}
			secret, _, err := d.MsgSecrets.GetMessageSecret(bg, types.NewJID("2", types.GroupServer), e.sender, types.MessageID(e.id))
			require.NoError(t, err)
			require.Nil(t, secret, "another chat's")
			secret, _, err = d.MsgSecrets.GetMessageSecret(bg, e.chat, testJID(9), types.MessageID(e.id))
			require.NoError(t, err)
			require.Nil(t, secret, "another sender's")
		}
		c, d, _ = reopen(t, kv, c)
	}
}

// Whatever still has the context of a transaction that is over writes by itself.
func TestWriteAfterItsTransactionIsSaved(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	var after context.Context
	require.NoError(t, d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
		after = ctx
		return d.Sessions.PutSession(ctx, "1:0", validSession(t, 1))
	}))
	require.NoError(t, d.Sessions.PutSession(after, "2:0", validSession(t, 2)))
	v, err := d.Sessions.GetSession(bg, "2:0")
	require.NoError(t, err)
	require.EqualValues(t, 2, sessionCounter(t, v))
	require.Error(t, d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
		after = ctx
		_ = d.Sessions.PutSession(ctx, "3:0", validSession(t, 3))
		return context.DeadlineExceeded
	}))
	require.NoError(t, d.Sessions.PutSession(after, "4:0", validSession(t, 4)))
	_, d, _ = reopen(t, kv, c)
	for addr, want := range map[string]bool{"1:0": true, "2:0": true, "3:0": false, "4:0": true} {
		has, err := d.Sessions.HasSession(bg, addr)
		require.NoError(t, err)
		require.Equal(t, want, has, addr)
	}
}

// Whoever ends a term releases the lock next, so the device is over even if its
// last save does not come back.
func TestEndOfTermThatTakesTooLongEndsTheDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{1}))
		release := kv.holdCommit("identity")
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		require.ErrorIs(t, c.EndTerm(ctx), context.DeadlineExceeded)
		err := d.Sessions.PutSession(bg, "1:0", validSession(t, 1))
		require.ErrorIs(t, err, ErrSuperseded)
		require.ErrorIs(t, err, context.Canceled)
		release()
		require.NoError(t, c.EndTerm(bg), "there is none any more")
	})
}

// rangedKV reads several ranges in one request, which may break off.
type rangedKV struct {
	*mapKV
	broken error // after the first entries
	whole  bool  // or before any
}

func (k *rangedKV) ScanRanges(ctx context.Context, ranges ...Range) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		n := 0
		for _, r := range ranges {
			for e, err := range k.Scan(ctx, r.Kind, r.IDPrefix) {
				if n++; k.broken != nil && (k.whole || n > 5) {
					yield(Entry{}, k.broken)
					return
				}
				if !yield(e, err) {
					return
				}
			}
		}
	}
}

// Tables that are read in one request, which breaks off, are neither a shorter
// account nor a damaged one.
func TestBrokenOffScanOfAllTablesIsAnOutage(t *testing.T) {
	kv := &rangedKV{mapKV: newMapKV()}
	c, d, _ := open(t, kv.mapKV)
	furnish(t, d)
	require.NoError(t, c.Close(bg))
	before := maps.Clone(kv.data)
	for _, whole := range []bool{false, true} {
		kv.broken, kv.whole = errors.New("the connection broke"), whole
		_, err := New(kv).Device(bg, newFence(kv.epoch))
		require.ErrorIs(t, err, kv.broken)
		require.NotErrorIs(t, err, ErrCorrupt)
		require.Equal(t, before, kv.data)
	}
	kv.broken = nil
	c = New(kv)
	d, err := c.Device(bg, newFence(kv.epoch))
	require.NoError(t, err)
	require.Equal(t, testJID(1), *d.ID)
	v, err := d.Sessions.GetSession(bg, "15550100:0")
	require.NoError(t, err)
	require.NotNil(t, v)
	require.NoError(t, c.Close(bg))
}

// After Close nobody would save what a device defers, so there is none, whether
// one was given out before or not.
func TestClosedContainerGivesOutNoDevice(t *testing.T) {
	for _, used := range []bool{false, true} {
		kv := newMapKV()
		c := New(kv)
		if used {
			require.NoError(t, second(c.Device(bg, newFence(kv.epoch))))
		}
		require.NoError(t, c.Close(bg))
		_, err := c.Device(bg, newFence(kv.epoch))
		require.ErrorIs(t, err, ErrSuperseded)
	}
}
