package authstore

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// What the flows of whatsmeow cost, with the calls that it makes for them.

// meter counts what f costs.
func meter(kv *mapKV, f func()) (commits, reads int64) {
	c, r := kv.commits.Load(), kv.gets.Load()+kv.scans.Load()
	f()
	return kv.commits.Load() - c, kv.gets.Load() + kv.scans.Load() - r
}

func TestAReceivedMessageIsOneCommitAndNoRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		_, err := receiveMessage(t, d, 0, 0)
		require.NoError(t, err)
		require.NoError(t, storeOf(d).flush("t"))
		commits, reads := meter(kv, func() {
			for n := range 20 {
				_, err := receiveMessage(t, d, n+1, 0)
				require.NoError(t, err)
				_, _, err = d.Contacts.PutPushName(bg, testJID(1), "Bob")
				require.NoError(t, err)
				require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(1), fmt.Sprint(n), []byte{1}))
			}
		})
		require.EqualValues(t, 20, commits)
		require.Zero(t, reads)
	})
}

// groupSend makes the store calls of a send to a group of n devices.
func groupSend(t testing.TB, d *store.Device, n int, identity byte) {
	group := "g@g.us"
	key, err := d.SenderKeys.GetSenderKey(bg, group, "me_1:1")
	require.NoError(t, err)
	_, err = d.SenderKeys.GetSenderKey(bg, group, "me_1:1")
	require.NoError(t, err)
	require.NoError(t, d.SenderKeys.PutSenderKey(bg, group, "me_1:1", append(key, 1)))
	var pns []types.JID
	var addrs []string
	for i := range n {
		pns = append(pns, types.JID{User: fmt.Sprint(i), Server: types.DefaultUserServer})
		addrs = append(addrs, fmt.Sprintf("9%d_1:0", i))
	}
	_, err = d.LIDs.GetManyLIDsForPNs(bg, pns)
	require.NoError(t, err)
	got, err := d.Sessions.GetManySessions(bg, addrs)
	require.NoError(t, err)
	require.Len(t, got, n)
	out := make(map[string][]byte, n)
	for _, a := range addrs {
		_, err := d.Identities.IsTrustedIdentity(bg, a, [32]byte{identity})
		require.NoError(t, err)
		require.NoError(t, d.Identities.PutIdentity(bg, a, [32]byte{identity}))
		out[a] = validSession(t, sessionCounter(t, got[a])+1)
	}
	require.NoError(t, d.Sessions.PutManySessions(bg, out))
	_, err = d.PrivacyTokens.GetPrivacyToken(bg, pns[0])
	require.NoError(t, err)
}

func TestAGroupSendIsTwoCommitsAndNoRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		commits, reads := meter(kv, func() { groupSend(t, d, 256, 1) })
		require.LessOrEqual(t, commits, int64(2), "the first send")
		require.LessOrEqual(t, reads, int64(1), "is there a sender key?")
		commits, reads = meter(kv, func() { groupSend(t, d, 256, 1) })
		require.EqualValues(t, 2, commits)
		require.Zero(t, reads)
		commits, reads = meter(kv, func() { require.NoError(t, sendStep(t, d, []string{"90_1:0", "91_1:0"}, 0)) })
		require.EqualValues(t, 1, commits, "a send to one user")
		require.Zero(t, reads)
	})
}

func TestTheFirstLoginIsAtMostThreeCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		commits, reads := meter(kv, func() {
			require.NoError(t, d.LIDs.PutLIDMapping(bg, d.LID.ToNonAD(), d.ID.ToNonAD()))
			keys, err := d.PreKeys.GetOrGenPreKeys(bg, 812)
			require.NoError(t, err)
			require.NoError(t, d.PreKeys.MarkPreKeysAsUploaded(bg, keys[811].KeyID))
		})
		require.LessOrEqual(t, commits, int64(3))
		require.Zero(t, reads)
		require.LessOrEqual(t, kv.count("prekey"), 13, "few rows")
	})
}

func TestAnAppStatePatchIsOneCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		patch := func(version uint64) {
			var macs []store.AppStateMutationMAC
			for i := range 200 {
				index := make([]byte, 32)
				index[0] = byte(i)
				_, err := d.AppState.GetAppStateMutationMAC(bg, "regular", index)
				require.NoError(t, err)
				macs = append(macs, store.AppStateMutationMAC{IndexMAC: index, ValueMAC: append(make([]byte, 31), byte(version))})
			}
			require.NoError(t, d.AppState.PutAppStateVersion(bg, "regular", version, [128]byte{byte(version)}))
			require.NoError(t, d.AppState.DeleteAppStateMutationMACs(bg, "regular", [][]byte{macs[0].IndexMAC}))
			require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, "regular", version, macs[1:]))
			for i := range 200 {
				require.NoError(t, d.Contacts.PutContactName(bg, testJID(i), "A", fmt.Sprint(version)))
			}
		}
		patch(1)
		time.Sleep(time.Minute)
		synctest.Wait()
		commits, reads := meter(kv, func() {
			patch(2)
			time.Sleep(time.Minute)
			synctest.Wait()
		})
		require.EqualValues(t, 1, commits)
		require.Zero(t, reads)
		_, d, _ = reopen(t, kv, c)
		v, hash, err := d.AppState.GetAppStateVersion(bg, "regular")
		require.NoError(t, err)
		require.EqualValues(t, 2, v)
		require.EqualValues(t, 2, hash[0])
		mac, err := d.AppState.GetAppStateMutationMAC(bg, "regular", make([]byte, 32))
		require.NoError(t, err)
		require.Nil(t, mac)
	})
}

// A version never stands beside the MACs of another, whenever the process
// dies: the three calls of a patch become durable together.
func TestAVersionAndItsMACsAreOneBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		require.NoError(t, d.AppState.PutAppStateVersion(bg, "regular", 1, [128]byte{}))
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1))) // a commit between the calls
		require.Zero(t, kv.count("appstate"))
		require.NoError(t, d.AppState.DeleteAppStateMutationMACs(bg, "regular", [][]byte{{1}}))
		require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, "regular", 1, []store.AppStateMutationMAC{{IndexMAC: []byte{2}, ValueMAC: []byte{3}}}))
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 2)))
		require.Equal(t, 1, kv.count("appstate"))
		require.Equal(t, 1, kv.count("appmac"))
		// If the last call never comes, the version is kept all the same.
		require.NoError(t, d.AppState.PutAppStateVersion(bg, "regular", 2, [128]byte{}))
		time.Sleep(3 * time.Second)
		synctest.Wait()
		v, _, err := d.AppState.GetAppStateVersion(bg, "regular")
		require.NoError(t, err)
		require.EqualValues(t, 2, v)
	})
}

func TestAColdStartIsTwoRoundTrips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		sessions := make(map[string][]byte)
		one := validSession(t, 1)
		for i := range 5000 {
			sessions[fmt.Sprintf("%d_1:0", i)] = one
		}
		require.NoError(t, d.Sessions.PutManySessions(bg, sessions))
		require.NoError(t, c.Close(bg))
		kv.before.set(func(string, Batch) error { time.Sleep(20 * time.Millisecond); return nil })
		start := time.Now()
		c = New(kv)
		_, err := c.Device(bg, newFence(1))
		require.NoError(t, err)
		require.Equal(t, 40*time.Millisecond, time.Since(start))
		require.NoError(t, c.Close(bg))
	})
}

func TestCommitsThatWaitShareARoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		kv.before.set(func(string, Batch) error { time.Sleep(20 * time.Millisecond); return nil })
		var wg sync.WaitGroup
		commits, _ := meter(kv, func() {
			for i := range 50 {
				wg.Go(func() {
					require.NoError(t, d.SenderKeys.PutSenderKey(bg, "g", fmt.Sprint(i), []byte{1}))
				})
			}
			wg.Wait()
		})
		require.LessOrEqual(t, commits, int64(3))
		require.Equal(t, 50, kv.count("senderkey"))
	})
}

func TestTheRulesBetterThanTheDatabases(t *testing.T) {
	kv := newMapKV()
	_, d, _ := open(t, kv)
	pn, lid := types.NewJID("1", types.DefaultUserServer), types.NewJID("900", types.HiddenUserServer)
	require.NoError(t, d.LIDs.PutLIDMapping(bg, lid, pn))

	t.Run("an identity notification from a LID finds the sessions", func(t *testing.T) {
		for _, user := range []string{"900", "1"} {
			require.NoError(t, d.Sessions.PutSession(bg, "900_1:2", validSession(t, 1)))
			require.NoError(t, d.Identities.PutIdentity(bg, "900_1:2", [32]byte{1}))
			require.NoError(t, d.Sessions.DeleteAllSessions(bg, user))
			require.NoError(t, d.Identities.DeleteAllIdentities(bg, user))
			has, err := d.Sessions.HasSession(bg, "900_1:2")
			require.NoError(t, err)
			require.False(t, has)
			ok, err := d.Identities.IsTrustedIdentity(bg, "900_1:2", [32]byte{2})
			require.NoError(t, err)
			require.True(t, ok)
		}
	})
	t.Run("a failed migration is tried again", func(t *testing.T) {
		require.NoError(t, d.Sessions.PutSession(bg, "1:3", validSession(t, 8)))
		kv.before.set(func(op string, _ Batch) error { return ErrTooLarge })
		require.Error(t, d.Sessions.MigratePNToLID(bg, pn, lid))
		kv.before.set(nil)
		require.NoError(t, d.Sessions.MigratePNToLID(bg, pn, lid))
		v, err := d.Sessions.GetSession(bg, "900_1:3")
		require.NoError(t, err)
		require.EqualValues(t, 8, sessionCounter(t, v))
	})
	t.Run("the newer privacy token is kept", func(t *testing.T) {
		put := func(token string, at int64) {
			require.NoError(t, d.PrivacyTokens.PutPrivacyTokens(bg, store.PrivacyToken{User: pn, Token: []byte(token), Timestamp: time.Unix(at, 0)}))
		}
		put("new", 20)
		put("old", 10)
		got, err := d.PrivacyTokens.GetPrivacyToken(bg, lid)
		require.NoError(t, err)
		require.Equal(t, "new", string(got.Token))
		require.Equal(t, lid, got.User)
		n, err := storeOf(d).DeleteExpiredPrivacyTokens(bg, time.Unix(21, 0))
		require.NoError(t, err)
		require.EqualValues(t, 1, n)
	})
	t.Run("a mapping is unique in both directions", func(t *testing.T) {
		other := types.NewJID("901", types.HiddenUserServer)
		require.NoError(t, d.LIDs.PutLIDMapping(bg, other, pn))
		got, err := d.LIDs.GetPNForLID(bg, lid)
		require.NoError(t, err)
		require.True(t, got.IsEmpty())
		pn2 := types.NewJID("2", types.DefaultUserServer)
		require.NoError(t, d.LIDs.PutManyLIDMappings(bg, []store.LIDMapping{{LID: other, PN: pn2}}))
		got, err = d.LIDs.GetLIDForPN(bg, pn)
		require.NoError(t, err)
		require.True(t, got.IsEmpty())
		many, err := d.LIDs.GetManyLIDsForPNs(bg, []types.JID{{User: "2", Device: 7, Server: types.DefaultUserServer}, pn, lid})
		require.NoError(t, err)
		require.Len(t, many, 1)
		require.Equal(t, "901:7@lid", many[types.JID{User: "2", Device: 7, Server: types.DefaultUserServer}].String())
	})
	t.Run("the first message secret counts, in a later term too", func(t *testing.T) {
		require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, pn, pn, "S", []byte("first")))
		require.NoError(t, storeOf(d).flush("t"))
		kv.setEpoch(2)
		_, d2, _ := open(t, kv)
		require.NoError(t, d2.MsgSecrets.PutMessageSecret(bg, pn, pn, "S", []byte("second")))
		got, sender, err := d2.MsgSecrets.GetMessageSecret(bg, pn, pn, "S")
		require.NoError(t, err)
		require.Equal(t, "first", string(got))
		require.Equal(t, pn, sender)
	})
}

func TestFinishedEventsAreForgottenAfterTwoWeeks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		for n := range 200 {
			_, err := receiveMessage(t, d, n, 0)
			require.NoError(t, err)
		}
		c, d, _ = reopen(t, kv, c)
		require.Zero(t, kv.count("event"))
		require.LessOrEqual(t, kv.count("seen"), 5, "hashes share rows")
		commits, reads := meter(kv, func() {
			for n := range 200 {
				handled, err := receiveMessage(t, d, n, 0)
				require.NoError(t, err)
				require.True(t, handled)
			}
		})
		require.Zero(t, commits+reads, "redelivered messages are recognised for nothing")
		time.Sleep(13 * 24 * time.Hour)
		require.NoError(t, d.EventBuffer.DeleteOldBufferedHashes(bg))
		synctest.Wait() // it looks for other old rows beside
		commits, reads = meter(kv, func() {
			handled, err := receiveMessage(t, d, 7, 0)
			require.NoError(t, err)
			require.True(t, handled)
		})
		require.Zero(t, commits+reads, "the service may still deliver it again")
		time.Sleep(2 * 24 * time.Hour)
		require.NoError(t, d.EventBuffer.DeleteOldBufferedHashes(bg))
		require.Zero(t, kv.count("seen"))
		_ = c
	})
}

// BenchmarkReceive reports what one received message costs in the store.
func BenchmarkReceive(b *testing.B) {
	kv := newMapKV()
	_, d, _ := open(b, kv)
	c, r, p, n := kv.commits.Load(), kv.gets.Load()+kv.scans.Load(), kv.puts.Load(), kv.bytes.Load()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		session := validSession(b, uint32(i))
		hash := [32]byte{byte(i), byte(i >> 8), byte(i >> 16), byte(i >> 24)}
		_ = d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
			_, _ = d.Sessions.GetSession(ctx, "900_1:0")
			_ = d.Sessions.PutSession(ctx, "900_1:0", session)
			return d.EventBuffer.PutBufferedEvent(ctx, hash, session, time.Unix(5, 0))
		})
		_ = d.EventBuffer.ClearBufferedEventPlaintext(bg, hash)
		i++
	}
	report(b, kv, c, r, p, n)
}

// BenchmarkGroupSend256 reports what a send to 256 devices costs.
func BenchmarkGroupSend256(b *testing.B) {
	kv := newMapKV()
	_, d, _ := open(b, kv)
	groupSend(b, d, 256, 1)
	c, r, p, n := kv.commits.Load(), kv.gets.Load()+kv.scans.Load(), kv.puts.Load(), kv.bytes.Load()
	b.ReportAllocs()
	for b.Loop() {
		groupSend(b, d, 256, 1)
	}
	report(b, kv, c, r, p, n)
}

func report(b *testing.B, kv *mapKV, c, r, p, n int64) {
	ops := float64(b.N)
	b.ReportMetric(float64(kv.commits.Load()-c)/ops, "commits/op")
	b.ReportMetric(float64(kv.gets.Load()+kv.scans.Load()-r)/ops, "reads/op")
	b.ReportMetric(float64(kv.puts.Load()-p)/ops, "rows/op")
	b.ReportMetric(float64(kv.bytes.Load()-n)/ops, "stored-B/op")
}
