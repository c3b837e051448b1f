package authstore

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// onDemand are the reads that may have to ask the KV.
func onDemand(d *store.Device) map[string]func() (found bool, err error) {
	user, lid := types.NewJID("1", types.DefaultUserServer), types.NewJID("900", types.HiddenUserServer)
	s := storeOf(d)
	return map[string]func() (bool, error){
		"sender key": func() (bool, error) { v, err := d.SenderKeys.GetSenderKey(bg, "g@g.us", "1:0"); return v != nil, err },
		"sender key in a receive": func() (found bool, err error) {
			err = d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) (err error) {
				var v []byte
				v, err = d.SenderKeys.GetSenderKey(ctx, "g@g.us", "1:0")
				found = v != nil
				return err
			})
			return found, err
		},
		"secret": func() (bool, error) {
			v, _, err := d.MsgSecrets.GetMessageSecret(bg, user, user, "ID")
			return v != nil, err
		},
		"MAC": func() (bool, error) {
			v, err := d.AppState.GetAppStateMutationMAC(bg, "regular", make([]byte, 32))
			return v != nil, err
		},
		"removed MAC": func() (bool, error) {
			return true, d.AppState.DeleteAppStateMutationMACs(bg, "regular", [][]byte{make([]byte, 32)})
		},
		"outgoing event": func() (bool, error) {
			_, v, err := s.GetOutgoingEvent(bg, user, types.JID{}, "OUT")
			return v != nil, err
		},
		"sent message": func() (bool, error) { v, err := s.Sent(bg, user, types.JID{}, "SENT"); return v != nil, err },
		"move":         func() (bool, error) { return true, d.Sessions.MigratePNToLID(bg, user, lid) },
	}
}

// A read on demand waits while the KV is down, and where that lasts
// the read fails so that the message stays with the service. "It is not there"
// would be an answer for good.
func TestReadOnDemandDuringAnOutageIsNoMissingRow(t *testing.T) {
	whole := filled(t)
	for name := range onDemand(&store.Device{Sessions: &deviceStore{}}) {
		for _, lasting := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				for k, v := range whole.data {
					kv.data[k] = v
				}
				kv.setEpoch(5)
				c, d, _ := open(t, kv)
				user := types.NewJID("1", types.DefaultUserServer)
				require.NoError(t, storeOf(d).KeepSent(bg, user, "SENT", []byte("sent")))
				_, d, f := reopen(t, kv, c)
				asked := 0
				kv.before.set(func(op string, _ Batch) error {
					if asked++; lasting || asked <= 3 {
						return errDown
					}
					return nil
				})
				found, err := onDemand(d)[name]()
				if lasting {
					require.ErrorIs(t, err, context.Canceled, name)
					require.ErrorIs(t, err, ErrUnavailable, name)
					require.EqualValues(t, 1, f.cuts.Load(), name)
				} else {
					require.NoError(t, err, name)
					require.True(t, found, name)
					require.Zero(t, f.cuts.Load(), name)
				}
				require.Greater(t, asked, 1, name)
				kv.before.set(nil)
				time.Sleep(time.Hour)
			})
		}
	}
}

// Old privacy tokens go, and those that are not old stay: without one a message to
// that contact is refused.
func TestLookAtOldTokensLeavesYoungOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		const age = 180 * 24 * time.Hour // as the documentation says
		for user, at := range map[string]time.Time{"1": time.Now(), "2": time.Now().Add(-age + time.Hour), "3": time.Now().Add(-age - time.Hour)} {
			require.NoError(t, d.PrivacyTokens.PutPrivacyTokens(bg, store.PrivacyToken{User: types.NewJID(user, types.DefaultUserServer), Token: []byte(user), Timestamp: at}))
		}
		require.NoError(t, d.EventBuffer.DeleteOldBufferedHashes(bg))
		for user, want := range map[string]bool{"1": true, "2": true, "3": false} {
			got, err := d.PrivacyTokens.GetPrivacyToken(bg, types.NewJID(user, types.DefaultUserServer))
			require.NoError(t, err)
			require.Equal(t, want, got != nil, user)
		}
	})
}

// The rows beside a session stay as long as one message of it may be asked for.
func TestSentMessagesBesideASessionGoWithTheYoungest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		chat := types.NewJID("1", types.DefaultUserServer)
		send := func(id string) {
			ctx := WithSending(bg, &Sending{Chat: chat, ID: id, Plaintext: func() []byte { return []byte("text " + id) }})
			got, err := d.Sessions.GetManySessions(ctx, []string{"1:0"})
			require.NoError(t, err)
			require.NoError(t, d.Sessions.PutManySessions(ctx, map[string][]byte{"1:0": validSession(t, sessionCounter(t, got["1:0"])+1)}))
		}
		sent := func(id string) bool {
			v, err := storeOf(d).Sent(bg, chat, types.JID{}, id)
			require.NoError(t, err)
			return v != nil
		}
		age := Retention{}.withDefaults().Sent
		send("A")
		time.Sleep(2 * time.Second)
		send("B")
		d = killed(t, kv)
		require.NotEmpty(t, storeOf(d).im.beside["1:0"])
		time.Sleep(age - time.Second)
		require.NoError(t, storeOf(d).DeleteOldOutgoingEvents(bg))
		synctest.Wait() // it looks in the background
		require.NoError(t, storeOf(d).flush("test"))
		d = killed(t, kv)
		require.False(t, sent("A"))
		require.True(t, sent("B"))
	})
}

// Small records that break off anywhere are damaged, and not shorter ones.
func TestRecordThatBreaksOffIsDamaged(t *testing.T) {
	whole, err := codec{}.encodeManifest(Key{"session", "d0/1:0"}, manifest{nonce: "0123456789abcdef", count: 300, size: 70_000})
	require.NoError(t, err)
	rec, err := codec{}.decode(Key{"session", "d0/1:0"}, "1:0", whole)
	require.NoError(t, err)
	require.Equal(t, manifest{nonce: "0123456789abcdef", count: 300, size: 70_000}, *rec.split)
	body := whole[headerSize+sumSize:]
	for n := range body {
		_, err := decodeManifest(body[:n])
		require.ErrorIs(t, err, ErrCorrupt, "%d bytes of %d", n, len(body))
	}
	form := func(nonce string, count, size uint64) []byte {
		b := appendBytes(nil, []byte(nonce))
		return append(uvarint(b, count), uvarint(nil, size)...)
	}
	_, err = decodeManifest(form("n", 1<<20, 1<<30))
	require.NoError(t, err)
	for name, b := range map[string][]byte{
		"no nonce": form("", 1, 1), "long nonce": form(string(make([]byte, 65)), 1, 1), "no parts": form("n", 0, 1),
		"too many parts": form("n", 1<<20+1, 1), "too large": form("n", 1, 1<<30+1),
	} {
		_, err := decodeManifest(b)
		require.ErrorIs(t, err, ErrCorrupt, name)
	}

	packed := encodePacked([]string{"a", "b"}, func(id string) []byte { return []byte(id + id) })
	for n := range packed {
		var got []string
		err := decodePacked(packed[:n], func(id string, _ []byte) { got = append(got, id) })
		if n == 0 || n == len(packed)/2 {
			require.NoError(t, err)
			continue
		}
		require.ErrorIs(t, err, ErrCorrupt, "%d bytes of %d", n, len(packed))
	}

	fieldwise := appendBytes(fieldsOf(int64(300), int64(5)), []byte("xyz"))
	read := func(b []byte) error {
		f := fields{b: b}
		f.varint()
		f.varint()
		f.bytes()
		f.byte()
		if f.err != nil {
			require.Zero(t, f.varint())
			require.Nil(t, f.bytes())
			require.Zero(t, f.byte())
			require.Empty(t, f.b)
		}
		return f.err
	}
	require.NoError(t, read(append(fieldwise, 1)))
	for n := range len(fieldwise) + 1 {
		require.ErrorIs(t, read(fieldwise[:n]), ErrCorrupt, "%d bytes", n)
	}
}

func uvarint(b []byte, v uint64) []byte {
	for ; v >= 0x80; v >>= 7 {
		b = append(b, byte(v)|0x80)
	}
	return append(b, byte(v))
}

// Where one batch cannot take a commit, what a crash must find first goes first.
func TestOrderInWhichRowsLand(t *testing.T) {
	for _, o := range []struct {
		first, then tableID
		why         string
	}{
		{tMessage, tSeen, "a kept message before its event is finished"},
		{tMessage, tEvent, "or gone from the buffer"},
		{tEvent, tSession, "found in the buffer, an event is dispatched again"},
		{tEvent, tPreKey, "and its prekey is not needed"},
		{tOutgoing, tSession, "a sent message before the session beside which it stood"},
		{tIdentity, tSession, "a session of an identity that is known"},
		{tMisc, tPreKey, "the counter, or an id is used twice"},
		{tSession, tPreKey, "the removal of a prekey after the session that came from it"},
		{tAppMAC, tAppState, "no version without its MACs"},
		{tAppKey, tAppState, "nor without its key"},
		{tSession, tDevice, "nothing of a device that is not whole"},
		{tDevice, tHead, "and no name without a device"},
	} {
		require.Less(t, specOf(o.first).landing, specOf(o.then).landing, o.why)
	}
}

// The record of a device that was purged for good names nothing to purge.
func TestPurgedDeviceIsNotPurgedAgain(t *testing.T) {
	kv := newMapKV()
	c, d, f := open(t, kv)
	fill(t, d)
	require.NoError(t, d.Delete(bg))
	require.NoError(t, c.PurgeDevice(bg, f))
	h, err := c.readHead(bg)
	require.NoError(t, err)
	require.Empty(t, h.Purge)
	require.ErrorIs(t, c.PurgeDevice(bg, f), ErrNothingDeleted)
	require.ErrorIs(t, c.Restore(bg, f), ErrNothingDeleted)
	for k := range kv.data {
		require.NotEqual(t, kindPart, k.Kind)
		require.Equal(t, globalGen+"/", k.ID[:2], "%s %s", k.Kind, k.ID)
	}
}

// Of a row that was set aside it is told what it was, why, and when; the oldest
// comes first.
func TestDamagedRowIsToldOfWithItsKindCauseAndTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		var told []Incident
		note := WithOnIncident(func(i Incident) { told = append(told, i) })
		c, d, _ := open(t, kv, note)
		var times []time.Time
		for i, damage := range []func() error{
			func() error { // its envelope
				key := rowKey(d, tSession, "1:0")
				require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
				kv.data[key] = "\x01\x00damaged"
				_, d, _ = reopen(t, kv, c, note)
				return storeOf(d).flush("test")
			},
			func() error { // its content
				require.NoError(t, storeOf(d).write(bg, "test", put(tSession, "2:0", []byte("no session"))))
				return second(d.Sessions.HasSession(bg, "2:0"))
			},
			func() error {
				require.NoError(t, storeOf(d).write(bg, "test", put(tEvent, eventID([32]byte{1}), []byte{0x80})))
				return second(d.EventBuffer.GetBufferedEvent(bg, [32]byte{1}))
			},
			func() error { // a row of several that breaks off
				s := storeOf(d)
				key, _, _ := s.keyOf(row{tIdentity, specOf(tIdentity).bucket("3:0")})
				value, err := s.cfg.codec.encode(key, "", false, []byte{9})
				require.NoError(t, err)
				kv.data[key] = string(value)
				_, d, _ = reopen(t, kv, c, note)
				return storeOf(d).flush("test")
			},
		} {
			require.NoError(t, damage())
			c = storeOf(d).c
			require.Len(t, told, i+1)
			require.Equal(t, IncidentCorrupt, told[i].Kind)
			require.Equal(t, []Kind{"session", "session", "event", "identity"}[i], told[i].Row)
			require.ErrorIs(t, told[i].Err, ErrCorrupt)
			times = append(times, time.Now())
			time.Sleep(time.Hour)
		}
		q, err := c.Quarantined(bg)
		require.NoError(t, err)
		require.Len(t, q.Rows, 4)
		for i, r := range q.Rows {
			require.Equal(t, times[i].UnixMilli(), r.At.UnixMilli())
			require.Contains(t, told[i].Err.Error(), r.Cause)
		}
		require.NoError(t, c.Close(bg))
	})
}

// A purge of damaged rows that is refused says so.
func TestPurgeOfDamagedRowsThatIsRefusedFails(t *testing.T) {
	kv := newMapKV()
	c, d, f := open(t, kv)
	require.NoError(t, storeOf(d).write(bg, "test", put(tSession, "2:0", []byte("no session"))))
	require.NoError(t, second(d.Sessions.HasSession(bg, "2:0")))
	kv.before.set(func(op string, b Batch) error {
		if op == "commit" && len(b.Delete) > 0 {
			return ErrTooLarge
		}
		return nil
	})
	require.ErrorIs(t, c.PurgeRows(bg, f), ErrTooLarge)
	require.Equal(t, 1, kv.count(kindQuarantine))
	kv.before.set(nil)
	require.NoError(t, c.PurgeRows(bg, f))
	require.Zero(t, kv.count(kindQuarantine))
}

// The first prekey has the number that whatsmeow begins with, 0 being none.
func TestPreKeysBeginWithOne(t *testing.T) {
	_, d, _ := open(t, newMapKV())
	list, err := d.PreKeys.GetOrGenPreKeys(bg, 3)
	require.NoError(t, err)
	for i, k := range list {
		require.EqualValues(t, i+1, k.KeyID)
	}
}
