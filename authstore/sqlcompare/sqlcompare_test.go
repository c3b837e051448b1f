package sqlcompare

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/proto/waAdv"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/store/sqlstore"
	"go.mau.fi/whatsmeow/types"
	_ "modernc.org/sqlite"
	"pgregory.net/rapid"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability/stabilitytest"
)

type fence struct{ epoch int64 }

func (f fence) Epoch() int64            { return f.epoch }
func (f fence) Held() bool              { return true }
func (f fence) TrustedUntil() time.Time { return time.Now().Add(time.Hour) }

// Cut is right only for a device whose container is closed or was asked for
// another: nothing here is an outage.
func (f fence) Cut(cause error) {
	if !errors.Is(cause, authstore.ErrSuperseded) {
		panic(fmt.Sprintf("cut: %v", cause))
	}
}

// sides are the two stores under comparison.
type sides struct {
	t        *rapid.T
	ours     *store.Device
	theirs   *store.Device
	reopen   func()
	contextA context.Context
	contextB context.Context
	macs     map[string]uint64          // highest version put, by collection
	hasMAC   map[string]map[string]bool // what sqlstore's primary key knows
	hashes   map[[32]byte]bool
	lastPre  uint32
	aliases  map[string]string
	moved    map[string]bool // numbers whose sessions were migrated
}

func newDB(t *testing.T) *sql.DB {
	db, err := sql.Open("sqlite", "file::memory:?_pragma=foreign_keys(1)&_pragma=busy_timeout(5000)")
	require.NoError(t, err)
	db.SetMaxOpenConns(1)
	require.NoError(t, sqlstore.NewWithDB(db, "sqlite3", nil).Upgrade(context.Background()))
	return db
}

func pair(t require.TestingT, d *store.Device) {
	jid := types.JID{User: "15550001", Device: 1, Server: types.DefaultUserServer}
	d.ID = &jid
	d.Account = &waAdv.ADVSignedDeviceIdentity{
		Details: []byte("d"), AccountSignature: make([]byte, 64), AccountSignatureKey: make([]byte, 32), DeviceSignature: make([]byte, 64),
	}
	require.NoError(t, d.Save(context.Background()))
}

// TestSameAnswersAsSQLStore: every method, random sequences, same answers.
func TestSameAnswersAsSQLStore(t *testing.T) {
	ops := 0
	want := stabilitytest.Pick(20_000, 200_000)
	for ops < want {
		rapid.Check(t, func(rt *rapid.T) {
			if ops >= want {
				return
			}
			ops += compare(t, rt)
		})
	}
	t.Logf("%d operations", ops)
}

func compare(t *testing.T, rt *rapid.T) int {
	ctx := context.Background()
	kv := &mapKV{data: make(map[authstore.Key]string)}
	var c *authstore.Container
	s := &sides{t: rt, macs: map[string]uint64{}, hasMAC: map[string]map[string]bool{}, hashes: map[[32]byte]bool{}, aliases: map[string]string{}, moved: map[string]bool{}}
	s.contextA, s.contextB = ctx, ctx
	db := newDB(t)
	defer db.Close()
	s.reopen = func() {
		theirs, err := sqlstore.NewWithDB(db, "sqlite3", nil).GetFirstDevice(ctx) // its caches are cold then
		require.NoError(rt, err)
		s.theirs = theirs
		if c != nil {
			require.NoError(rt, c.Close(ctx))
		}
		c = authstore.New(kv)
		kv.epoch++
		d, err := c.Device(ctx, fence{kv.epoch})
		require.NoError(rt, err)
		s.ours = d
	}
	s.reopen()
	defer func() { _ = c.Close(ctx) }()
	pair(rt, s.ours)
	pair(rt, s.theirs)
	return s.run(rapid.IntRange(40, 250).Draw(rt, "steps"))
}

var addresses = []string{"15550002:0", "15550002:3", "155500021:0", "900002_1:0", "900002_1:3", "15550003:0", "900003_1:0"}
var users = []types.JID{
	{User: "15550002", Server: types.DefaultUserServer}, {User: "15550003", Server: types.DefaultUserServer},
	{User: "900002", Server: types.HiddenUserServer}, {User: "900003", Server: types.HiddenUserServer},
	{User: "15550002", Device: 3, Server: types.DefaultUserServer}, {User: "g1", Server: types.GroupServer},
}

// pairs are the mappings that may be put: one to one, since sqlstore's cache
// does not forget what a mapping was before.
var lids = []store.LIDMapping{
	{LID: users[2], PN: users[0]}, {LID: users[3], PN: users[1]},
	{LID: users[0], PN: users[2]}, // swapped: refused or ignored
}

func (s *sides) run(steps int) int {
	actions := s.actions()
	for range steps {
		actions[rapid.IntRange(0, len(actions)-1).Draw(s.t, "op")]()
	}
	return steps
}

// agree compares answers: values by deep equality, errors by their presence.
func agree[T any](s *sides, what string, ours, theirs T, errA, errB error) {
	if (errA == nil) != (errB == nil) {
		s.t.Fatalf("%s: ours: %v (%v), sqlstore: %v (%v)", what, ours, errA, theirs, errB)
	}
	if errA == nil {
		require.Equal(s.t, theirs, ours, what)
	}
}

func (s *sides) bytes(label string) []byte {
	return rapid.SliceOfN(rapid.Byte(), 1, 8).Draw(s.t, label)
}

func pick[T any](s *sides, label string, from []T) T {
	return rapid.SampledFrom(from).Draw(s.t, label)
}

func (s *sides) key(label string) (k [32]byte) {
	k[0] = rapid.ByteRange(0, 2).Draw(s.t, label)
	return k
}

var errRollback = errors.New("roll back")

// inTxn runs a short sequence of calls in a decryption transaction of both.
func (s *sides) inTxn() {
	fail := rapid.Bool().Draw(s.t, "fail")
	n := rapid.IntRange(0, 8).Draw(s.t, "inner")
	outer := [2]context.Context{s.contextA, s.contextB}
	hashes := make(map[[32]byte]bool)
	for k := range s.hashes {
		hashes[k] = true
	}
	run := func(ctx context.Context) error { return nil }
	errA := s.ours.EventBuffer.DoDecryptionTxn(outer[0], func(a context.Context) error {
		errB := s.theirs.EventBuffer.DoDecryptionTxn(outer[1], func(b context.Context) error {
			s.contextA, s.contextB = a, b
			inner := s.txnActions()
			for range n {
				inner[rapid.IntRange(0, len(inner)-1).Draw(s.t, "inner op")]()
			}
			if fail {
				return errRollback
			}
			return run(b)
		})
		return errB
	})
	s.contextA, s.contextB = outer[0], outer[1]
	if fail {
		require.ErrorIs(s.t, errA, errRollback)
		s.hashes = hashes
	} else {
		require.NoError(s.t, errA)
	}
}

func equalBytes(s *sides, what string, ours, theirs []byte) {
	if (ours == nil) != (theirs == nil) || !bytes.Equal(ours, theirs) {
		s.t.Fatalf("%s: ours %x (nil %v), sqlstore %x (nil %v)", what, ours, ours == nil, theirs, theirs == nil)
	}
}
