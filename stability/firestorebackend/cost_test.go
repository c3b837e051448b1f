package firestorebackend

import (
	"context"
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/proto/waAdv"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"pgregory.net/rapid"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

// held is a term for a Container, without a client to cut.
type heldTerm struct{ rec lock.Record }

func (h heldTerm) Epoch() int64            { return h.rec.Epoch }
func (h heldTerm) Held() bool              { return true }
func (h heldTerm) TrustedUntil() time.Time { return time.Now().Add(time.Hour) }
func (h heldTerm) Cut(error)               {}

// paired gives a paired device of a real Container on the backend.
func paired(t testing.TB, b stability.Backend) (*authstore.Container, *store.Device) {
	t.Helper()
	c := authstore.New(b.Auth)
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c, pairedIn(t, c, heldTerm{hold(t, b)})
}

// pairedIn pairs the device of a Container.
func pairedIn(t testing.TB, c *authstore.Container, f authstore.Fence) *store.Device {
	t.Helper()
	d, err := c.Device(t.Context(), f)
	require.NoError(t, err)
	d.ID = &types.JID{User: "4917000000", Device: 1, Server: types.DefaultUserServer}
	d.LID = types.JID{User: "94917000000", Device: 1, Server: types.HiddenUserServer}
	d.Account = &waAdv.ADVSignedDeviceIdentity{
		Details: []byte("details"), AccountSignature: make([]byte, 64), AccountSignatureKey: make([]byte, 32), DeviceSignature: make([]byte, 64),
	}
	require.NoError(t, d.Save(t.Context()))
	return d
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// What a device's writes cost on the wire, with the real authstore in between:
// the sessions of 256 members at once are not 256 documents.
func TestASendToAGroupOf256IsAFewDocuments(t *testing.T) {
	t.Parallel()
	s := sim(t)
	b := opened(t, onSim(t, s))
	_, d := paired(t, b)
	sessions := map[string][]byte{}
	for i := range 256 {
		sessions[fmt.Sprintf("49170%06d:0", i)] = random(1200)
	}
	require.NoError(t, d.Sessions.PutManySessions(t.Context(), sessions)) // meets the buckets
	s.ResetStats()
	for addr := range sessions {
		sessions[addr] = random(1200)
	}
	require.NoError(t, d.Sessions.PutManySessions(t.Context(), sessions))
	st := s.Stats()
	t.Logf("%+v", st)
	require.Equal(t, 1, st.RPCs[firestoresim.Commit])
	require.LessOrEqual(t, st.Writes, 17, "16 buckets and the fence")
	require.Zero(t, st.Reads)

	s.ResetStats()
	require.NoError(t, d.Sessions.PutSession(t.Context(), "49170000001:0", random(1200)))
	st = s.Stats()
	require.Equal(t, 2, st.Writes, "one bucket and the fence")
	require.Zero(t, st.Reads)
}

// A prefix that says which bucket is one bucket, and never a wrong one.
func TestAPrefixIsOneBucketWhereItsIdsAre(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ kind, prefix string }{
		{"secret", "g1/00112233445566778899aabb/"}, // as authstore looks for a message
		{"appmac", "g1/regular_high/"},             // for a collection
		{"outgoing", "g1/00112233445566778899aabb/"},
		{"senderkey", "g1/4917000000:"}, // for a user
	} {
		k := authstore.Kind(c.kind)
		require.Equal(t, placeOf(authstore.Key{Kind: k, ID: c.prefix + "x"}).bucket, prefixBucket(k, ruleOf(k), c.prefix), "%s %s", k, c.prefix)
	}
	rapid.Check(t, func(t *rapid.T) {
		k := authstore.Kind(rapid.SampledFrom([]string{"device", "session", "event", "appmac", "secret", "outgoing", "senderkey", "new"}).Draw(t, "kind"))
		id := rapid.StringMatching(`[a-c/:_@]{0,12}`).Draw(t, "id")
		prefix := id[:rapid.IntRange(0, len(id)).Draw(t, "length of the prefix")]
		if bucket := prefixBucket(k, ruleOf(k), prefix); bucket != "" {
			require.Equal(t, placeOf(authstore.Key{Kind: k, ID: id}).bucket, bucket, "%s: %q begins with %q", k, id, prefix)
		}
	})
}

// A read on demand looks into the bucket of the row only, however
// much else there is of its kind.
func TestAMessageSecretIsOneRead(t *testing.T) {
	t.Parallel()
	s := sim(t)
	c := onSim(t, s)
	chat := types.NewJID("4917111111", types.DefaultUserServer)
	message := func(i int) types.MessageID { return types.MessageID(fmt.Sprintf("3EB0%028X", i)) }
	secrets := make([]store.MessageSecretInsert, 3000)
	for i := range secrets {
		secrets[i] = store.MessageSecretInsert{Chat: chat, Sender: chat, ID: message(i), Secret: random(32)}
	}
	mac := []store.AppStateMutationMAC{{IndexMAC: random(32), ValueMAC: random(32)}}
	collections := []string{"critical_block", "critical_unblock_low", "regular_high", "regular_low", "regular"}
	first, d := paired(t, opened(t, c))
	require.NoError(t, d.MsgSecrets.PutMessageSecrets(t.Context(), secrets))
	for _, name := range collections {
		require.NoError(t, d.AppState.PutAppStateVersion(t.Context(), name, 1, [128]byte{}))
		require.NoError(t, d.AppState.PutAppStateMutationMACs(t.Context(), name, 1, mac))
	}
	require.NoError(t, first.Close(t.Context())) // everything is written

	b := opened(t, c) // nothing of it is in memory
	second := authstore.New(b.Auth)
	t.Cleanup(func() { _ = second.Close(context.Background()) })
	d, err := second.Device(t.Context(), heldTerm{hold(t, b)})
	require.NoError(t, err)
	for i := 7; i < len(secrets); i += 500 {
		s.ResetStats()
		got, _, err := d.MsgSecrets.GetMessageSecret(t.Context(), chat, chat, message(i))
		require.NoError(t, err)
		require.Equal(t, secrets[i].Secret, got)
		require.Equal(t, 1, s.Stats().Reads)
	}
	s.ResetStats()
	got, err := d.AppState.GetAppStateMutationMAC(t.Context(), "regular_high", mac[0].IndexMAC)
	require.NoError(t, err)
	require.Equal(t, mac[0].ValueMAC, got)
	require.Equal(t, 1, s.Stats().Reads)
}

// A bucket never outgrows its document: what does not fit stands beside it, and
// everything is read back, in this term and in the next.
func TestABucketThatIsFullSpills(t *testing.T) {
	t.Parallel()
	s := sim(t)
	c := onSim(t, s)
	b := opened(t, c)
	rec := hold(t, b)
	want := map[string]string{}
	// One bucket: the kind event has no other.
	ev := func(i int) authstore.Key { return authstore.Key{Kind: "event", ID: fmt.Sprintf("g1/%d", i)} }
	for i := range 60 {
		v := random(20_000)
		want[ev(i).ID] = string(v)
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, authstore.Batch{Put: []authstore.Entry{{Key: ev(i), Value: v}}}))
	}
	all := func(b stability.Backend) map[string]string {
		got := map[string]string{}
		for e, err := range b.Auth.Scan(t.Context(), "event", "g1/") {
			require.NoError(t, err)
			got[e.Key.ID] = string(e.Value)
		}
		return got
	}
	require.Equal(t, want, all(b))
	own := 0
	for _, d := range s.Snapshot("demo-sim") {
		size := 0
		if m, ok := d.Fields["data"].(map[string]any); ok {
			for name, v := range m {
				size += len(name) + len(v.([]byte))
			}
			require.LessOrEqual(t, size, ruleOf("event").full)
			require.Greater(t, size, 400_000, "the bucket is used")
		} else if _, ok := d.Fields["data"].([]byte); ok {
			own++
		}
	}
	require.Greater(t, own, 20)
	// Values grow, shrink and go, by a writer that has not scanned.
	require.NoError(t, b.Lock.Release(t.Context(), rec))
	b = opened(t, c)
	rec = hold(t, b)
	for i := range 60 {
		var batch authstore.Batch
		switch i % 3 {
		case 0:
			batch.Delete = []authstore.Key{ev(i)}
			delete(want, ev(i).ID)
		case 1:
			v := random(10 + i*2000)
			want[ev(i).ID] = string(v)
			batch.Put = []authstore.Entry{{Key: ev(i), Value: v}}
		}
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, batch))
		got, err := b.Auth.Get(t.Context(), ev(i))
		require.NoError(t, err)
		v, ok := want[ev(i).ID]
		require.Equal(t, ok, len(got) == 1)
		require.True(t, v == string(got[ev(i)]))
	}
	require.True(t, fmt.Sprint(want) == fmt.Sprint(all(b)))
}

// The heaviest batch within the limits is one request that Firestore takes.
func TestTheHeaviestBatchIsTaken(t *testing.T) {
	t.Parallel()
	c := onEmulator(t)
	b := opened(t, c, WithRoot("r/"+string(make([]byte, 0))+fmt.Sprintf("%0498d", 1)))
	rec := hold(t, b)
	batch := func(n, size int) (out authstore.Batch) {
		for i := range n {
			out.Put = append(out.Put, authstore.Entry{Key: authstore.Key{Kind: "abcdefghijklmnopqrstuvwxyz_12345", ID: fmt.Sprintf("%0300d", i)}, Value: random(size)})
		}
		return out
	}
	per := limits.MaxBatch/limits.MaxKeys - 332
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, batch(limits.MaxKeys, per)))
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, batch(40, 33*kib)), "from the buckets to documents of their own")
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, batch(1, limits.MaxValue)))
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, batch(limits.MaxKeys, per)))
	n := 0
	for _, err := range b.Auth.Scan(t.Context(), "abcdefghijklmnopqrstuvwxyz_12345", "") {
		require.NoError(t, err)
		n++
	}
	require.Equal(t, limits.MaxKeys, n)
}
