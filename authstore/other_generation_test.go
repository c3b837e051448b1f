package authstore

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// What is of another device that can come back, or of an import that is not
// finished, stays as it is while a device is loaded, used, closed and loaded
// again, values that stand in parts too.
func TestDeviceLeavesTheRowsOfOthersAlone(t *testing.T) {
	large := bytes.Repeat([]byte("large"), 1000)
	for name, lay := range map[string]func(t *testing.T, kv *mapKV) (gen string, back func(t *testing.T, kv *mapKV, c *Container, f *testFence)){
		"a deleted device": func(t *testing.T, kv *mapKV) (string, func(*testing.T, *mapKV, *Container, *testFence)) {
			c, d, _ := open(t, kv)
			furnish(t, d)
			require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(2), "LARGE", large))
			require.NoError(t, d.SenderKeys.PutSenderKey(bg, "large@g.us", "7:0", validSenderKey(large)))
			require.NoError(t, c.Close(bg))
			want := tables(t, FromKV("kv", kv, newFence(kv.epoch)))
			kv.setEpoch(kv.epoch + 1)
			c, d, _ = open(t, kv)
			gen := storeOf(d).gen
			require.NoError(t, d.Delete(bg))
			require.NoError(t, c.Close(bg))
			return gen, func(t *testing.T, kv *mapKV, c *Container, f *testFence) {
				d, err := c.Device(bg, f)
				require.NoError(t, err)
				require.NoError(t, d.Delete(bg), "it has never logged in")
				require.NoError(t, c.Restore(bg, f))
				got := tables(t, FromKV("kv", kv, f))
				for _, global := range []Kind{specOf(tLID).kind, specOf(tMessage).kind} {
					delete(want, global)
					delete(got, global)
				}
				require.Equal(t, want, got)
			}
		},
		"an unfinished import": func(t *testing.T, kv *mapKV) (string, func(*testing.T, *mapKV, *Container, *testFence)) {
			from, f := source(t)
			src := FromKV("old", from, f)
			ctx, cancel := context.WithCancel(bg)
			_, err := Import(ctx, src, New(kv), newFence(kv.epoch), OnProgress(func(p Progress) {
				if p.Kind == "outgoing" {
					cancel()
				}
			}))
			require.ErrorIs(t, err, context.Canceled)
			m, err := New(kv).readManifest(bg)
			require.NoError(t, err)
			return m.Gen, func(t *testing.T, kv *mapKV, c *Container, f *testFence) {
				r, err := Import(bg, src, c, f, ReplaceDevice())
				require.NoError(t, err)
				require.True(t, r.Resumed)
				require.Positive(t, r.Kept)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				kv.limits = Limits{MaxValue: 1500, MaxBatch: 8000, MaxKeys: 30}
				gen, back := lay(t, kv)
				rows := func() map[Key]string {
					kv.mu.Lock()
					defer kv.mu.Unlock()
					out := make(map[Key]string)
					for k, v := range kv.data {
						if strings.HasPrefix(k.ID, gen+"/") {
							out[k] = v
						}
					}
					return out
				}
				before := rows()
				parts := 0
				for k := range before {
					if k.Kind == kindPart {
						parts++
					}
				}
				require.Positive(t, parts)
				kv.setEpoch(kv.epoch + 1)
				c, d, f := open(t, kv)
				for range 3 {
					furnishSome(t, d)
					require.NoError(t, d.SenderKeys.PutSenderKey(bg, "large@g.us", "7:0", validSenderKey(large)))
					synctest.Wait()
					require.Equal(t, before, rows())
					c, d, f = reopen(t, kv, c)
				}
				synctest.Wait()
				require.Equal(t, before, rows())
				back(t, kv, c, f)
				require.NoError(t, c.Close(bg))
			})
		})
	}
}
