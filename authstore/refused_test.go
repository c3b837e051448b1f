package authstore

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
)

// A version without one of its MACs makes whatsmeow fail on a later patch. So the
// disk has both or no version, with which the next term asks for everything anew.
func TestVersionIsNeverKeptWithoutItsMACs(t *testing.T) {
	const name, other = "regular", "critical_block"
	patch := func(t *testing.T, d *store.Device, collection string, version byte, index ...byte) {
		require.NoError(t, d.AppState.PutAppStateVersion(bg, collection, uint64(version), [128]byte{version}))
		require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, collection, uint64(version), macs(version, index...)))
	}
	for form, pause := range map[string]time.Duration{"together": 0, "the version first": 5 * soon} {
		t.Run(form, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				var incidents atomic.Int64
				_, d, _ := open(t, kv, WithOnIncident(func(i Incident) {
					require.Equal(t, IncidentRefused, i.Kind)
					incidents.Add(1)
				}))
				patch(t, d, name, 1, 1, 2, 3)
				require.NoError(t, storeOf(d).flush("test"))
				kv.before.set(func(op string, b Batch) error {
					for _, e := range b.Put {
						if e.Key.Kind == "appmac" && collectionOfKey(e.Key) == name {
							return ErrTooLarge
						}
					}
					return nil
				})
				require.NoError(t, d.AppState.PutAppStateVersion(bg, name, 2, [128]byte{2}))
				time.Sleep(pause)
				require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, name, 2, macs(2, 1)))
				patch(t, d, other, 9, 1)
				require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{7}))
				time.Sleep(5 * soon)
				kv.before.set(nil)
				require.Positive(t, incidents.Load())
				patch(t, d, name, 3, 2) // of which the refused one is still missing
				time.Sleep(5 * soon)

				version := func(d *store.Device, collection string, want uint64) {
					v, _, err := d.AppState.GetAppStateVersion(bg, collection)
					require.NoError(t, err)
					require.Equal(t, want, v)
				}
				version(d, name, 3) // this term goes on with what it has
				d = killed(t, kv)
				version(d, name, 0)
				version(d, other, 9)
				trusted, err := d.Identities.IsTrustedIdentity(bg, "1:0", [32]byte{8})
				require.NoError(t, err)
				require.False(t, trusted, "the other rows are kept")

				// The full sync that follows begins without MACs of before.
				patch(t, d, name, 4, 3)
				time.Sleep(5 * lazily)
				for _, d := range []*store.Device{d, killed(t, kv)} {
					version(d, name, 4)
					for index, want := range map[byte][]byte{1: nil, 2: nil, 3: {4}} {
						mac, err := d.AppState.GetAppStateMutationMAC(bg, name, []byte{index})
						require.NoError(t, err)
						require.Equal(t, want, mac, "index %d", index)
					}
				}
			})
		})
	}
}

// collectionOfKey is the collection of a stored row of MACs.
func collectionOfKey(k Key) string {
	_, bucket := genAndID(k)
	name, _ := collectionOf(row{tAppMAC, bucket})
	return name
}
