package sqlcompare

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/libsignal/ecc"
	"go.mau.fi/libsignal/kdf"
	"go.mau.fi/libsignal/keys/chain"
	"go.mau.fi/libsignal/keys/identity"
	"go.mau.fi/libsignal/keys/root"
	"go.mau.fi/libsignal/state/record"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/store/sqlstore"
	"go.mau.fi/whatsmeow/util/keys"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability/localbackend"
)

// envMemory makes a process that opens a store, uses it, and says how much
// memory it has then: the store's name and its file.
const envMemory = "WASTABILITY_MEMORY"

// BenchmarkProcessMemory is what a process has in memory more than one without
// a store, on the same account of 5,000 sessions and 20,000 sender keys: after
// the start and the sessions of one group of 256, and after all sessions.
func BenchmarkProcessMemory(b *testing.B) {
	stores := map[string]func(tb testing.TB, file string) (*store.Device, func()){"sqlstore": sqliteDevice, "authstore": localDevice}
	sessions := map[string][]byte{}
	for i := range coldSessions {
		sessions[memberAddress(i)] = someSession()
	}
	for name, open := range stores {
		file := filepath.Join(b.TempDir(), name+".db")
		d, done := open(b, file)
		pair(b, d)
		require.NoError(b, d.Sessions.PutManySessions(b.Context(), sessions))
		for i := range coldSessions {
			require.NoError(b, d.Identities.PutIdentity(b.Context(), memberAddress(i), [32]byte{byte(i)}))
		}
		for g := range 200 {
			for m := range 100 {
				require.NoError(b, d.SenderKeys.PutSenderKey(b.Context(), memberAddress(g)+"@g.us", memberAddress(m), fmt.Appendf(nil, `{"SenderKeyStates":[],"Padding":"%0260d"}`, m)))
			}
		}
		done()
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				none, with := memoryOf(b, "none", file), memoryOf(b, name, file)
				for i, what := range []string{"MiB-started", "MiB-mapped-started", "MiB-all-sessions", "MiB-mapped-all-sessions"} {
					b.ReportMetric((with[i]-none[i])/1024, what)
				}
			}
		})
	}
}

// someSession is one of about 1 KiB that libsignal parses.
func someSession() []byte {
	kp := keys.NewKeyPairFromPrivateKey([32]byte{1})
	pub := ecc.NewDjbECPublicKey(*kp.Pub)
	r := record.NewSession(store.SignalProtobufSerializer.Session, store.SignalProtobufSerializer.State)
	s := r.SessionState()
	s.SetLocalIdentityKey(identity.NewKey(pub))
	s.SetRemoteIdentityKey(identity.NewKey(pub))
	s.SetSenderBaseKey(pub.Serialize())
	s.SetRootKey(root.NewKey(kdf.DeriveSecrets, make([]byte, 32)))
	s.SetSenderChain(ecc.NewECKeyPair(pub, ecc.NewDjbECPrivateKey(*kp.Priv)), chain.NewKey(kdf.DeriveSecrets, make([]byte, 32), 0))
	return r.Serialize()
}

func memoryOf(b *testing.B, name, file string) (kib [4]float64) {
	cmd := exec.Command(os.Args[0], "-test.run", "^TestMemoryOfAProcess$", "-test.v")
	cmd.Env = append(os.Environ(), envMemory+"="+name+":"+file)
	out, err := cmd.CombinedOutput()
	require.NoError(b, err, string(out))
	_, after, _ := bytes.Cut(out, []byte("memory: "))
	_, err = fmt.Sscan(string(after), &kib[0], &kib[1], &kib[2], &kib[3])
	require.NoError(b, err, string(out))
	return kib
}

func TestMemoryOfAProcess(t *testing.T) {
	name, file, ok := bytes.Cut([]byte(os.Getenv(envMemory)), []byte(":"))
	if !ok {
		t.Skip("only as a process of BenchmarkProcessMemory")
	}
	use := func(int) {}
	switch string(name) {
	case "sqlstore", "authstore":
		open := sqliteDevice
		if string(name) == "authstore" {
			open = localDevice
		}
		d, done := open(t, string(file))
		defer done()
		use = func(n int) {
			var addresses []string
			for i := range n {
				addresses = append(addresses, memberAddress(i))
				ok, err := d.Identities.IsTrustedIdentity(t.Context(), memberAddress(i), [32]byte{byte(i)})
				require.NoError(t, err)
				require.True(t, ok)
			}
			got, err := d.Sessions.GetManySessions(t.Context(), addresses)
			require.NoError(t, err)
			require.Len(t, got, n)
		}
	}
	use(crowdSize)
	own, mapped := resident(t)
	use(coldSessions)
	ownAll, mappedAll := resident(t)
	fmt.Printf("memory: %d %d %d %d\n", own, mapped, ownAll, mappedAll)
}

// resident is what is in memory, in KiB, with as little garbage as possible:
// the process's own, and pages of files, which the kernel takes back when it
// needs them.
func resident(t *testing.T) (own, mapped int) {
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	read := func(name string) int {
		_, after, _ := bytes.Cut(status, []byte(name))
		n, err := strconv.Atoi(string(bytes.Fields(after)[0]))
		require.NoError(t, err)
		return n
	}
	return read("RssAnon:"), read("RssFile:")
}

func sqliteDevice(tb testing.TB, file string) (*store.Device, func()) {
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=foreign_keys(1)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate")
	require.NoError(tb, err)
	c := sqlstore.NewWithDB(db, "sqlite3", nil)
	require.NoError(tb, c.Upgrade(tb.Context()))
	d, err := c.GetFirstDevice(tb.Context())
	require.NoError(tb, err)
	return d, func() { require.NoError(tb, db.Close()) }
}

func localDevice(tb testing.TB, file string) (*store.Device, func()) {
	backend, err := localbackend.Open(file)
	require.NoError(tb, err)
	rec, granted, err := backend.Lock.Acquire(tb.Context(), "memory", strconv.Itoa(os.Getpid()), time.Hour)
	require.NoError(tb, err)
	require.True(tb, granted)
	c := authstore.New(backend.Auth)
	d, err := c.Device(tb.Context(), fence{rec.Epoch})
	require.NoError(tb, err)
	return d, func() {
		require.NoError(tb, c.Close(context.Background()))
		require.NoError(tb, backend.Close())
	}
}
