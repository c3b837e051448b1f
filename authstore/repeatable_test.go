package authstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"
)

// work is something that is done to a whole account, and its stores.
type work struct {
	kvs []*mapKV
	do  func() error
	end func(t *testing.T) any // what stands in the stores when it is done
}

func cloneKV(from *mapKV) *mapKV {
	kv := newMapKV()
	kv.data, kv.epoch, kv.limits = maps.Clone(from.data), from.epoch, from.limits
	return kv
}

// Each call to a store may fail, and the next one answer again. What moves, saves or
// cleans up an account says so then, and may be called again: what it leaves is
// what it would have left without the failure. Never does it go on with what it has
// not read.
func TestFailedCallIsNeverTakenForAnEmptyAnswer(t *testing.T) {
	t.Parallel()
	first, second := NewAESGCM(keyOf(1)), NewAESGCM(keyOf(2), keyOf(1))
	plain := newMapKV()
	c, d, _ := open(t, plain)
	furnishSome(t, d)
	require.NoError(t, c.PutMessageEntry(bg, "theirs", []byte("kept there"), true))
	require.NoError(t, c.Close(bg))
	sealed := newMapKV()
	sealed.limits = Limits{MaxValue: 2000, MaxBatch: 4000, MaxKeys: 20}
	c, d, _ = open(t, sealed, WithAEAD(first))
	furnishSome(t, d)
	require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(9), testJID(9), "LARGE", make([]byte, 5000)))
	require.NoError(t, d.Sessions.PutSession(bg, "bad:0", []byte("no session")))
	require.NoError(t, c.Close(bg))
	sealed.setEpoch(2)
	c, d, _ = open(t, sealed, WithAEAD(first))
	_, err := d.Sessions.GetSession(bg, "bad:0")
	require.NoError(t, err)
	require.NoError(t, c.Close(bg))
	require.Positive(t, sealed.count(kindQuarantine))
	require.Positive(t, sealed.count(kindPart))
	target := newMapKV()
	c, d, _ = open(t, target)
	require.NoError(t, d.LIDs.PutLIDMapping(bg, types.NewJID("77", types.HiddenUserServer), types.NewJID("15550103", types.DefaultUserServer)))
	require.NoError(t, c.PutMessageEntry(bg, "ours", []byte("kept here"), true))
	require.NoError(t, c.Close(bg))
	unfinished := cloneKV(target)
	_, err = Import(bg, FromKV("old", cloneKV(plain), newFence(plain.epoch)), New(unfinished), newFence(1), ReplaceDevice(), OnProgress(func(p Progress) {
		if p.Phase == "copy" && p.Kind == "lid" {
			unfinished.setEpoch(99)
		}
	}))
	unfinished.setEpoch(1)
	require.ErrorIs(t, err, ErrFenced)
	require.Positive(t, unfinished.count(kindImport))
	var archive bytes.Buffer
	_, err = Export(bg, FromKV("old", cloneKV(plain), newFence(plain.epoch)), &archive, archiveKey)
	require.NoError(t, err)

	deleted := cloneKV(plain)
	c, d, _ = open(t, deleted)
	require.NoError(t, c.DeleteDevice(bg, d))
	require.NoError(t, c.Close(bg))
	named := plainNames(t)

	content := func(kv *mapKV) any {
		kv.mu.Lock()
		defer kv.mu.Unlock()
		return maps.Clone(kv.data)
	}
	none := func(*testing.T) any { return nil }
	tablesOf := func(kv *mapKV, opts ...Option) func(t *testing.T) any {
		return func(t *testing.T) any { return tables(t, FromKV("kv", kv, newFence(kv.epoch), opts...)) }
	}
	for name, begin := range map[string]func() work{
		"export": func() work {
			kv := cloneKV(plain)
			return work{[]*mapKV{kv}, func() error {
				_, err := Export(bg, FromKV("old", kv, newFence(kv.epoch)), io.Discard, archiveKey)
				return err
			}, none}
		},
		"dry run": func() work {
			kv, to := cloneKV(plain), cloneKV(target)
			return work{[]*mapKV{kv, to}, func() error {
				_, err := Import(bg, FromKV("old", kv, newFence(kv.epoch)), New(to), newFence(1), ReplaceDevice(), DryRun())
				return err
			}, func(*testing.T) any { return content(to) }}
		},
		"import": func() work {
			kv, to := cloneKV(plain), cloneKV(target)
			return work{[]*mapKV{kv, to}, func() error {
				_, err := Import(bg, FromKV("old", kv, newFence(kv.epoch)), New(to), newFence(1), ReplaceDevice())
				return err
			}, tablesOf(to)}
		},
		"restore": func() work {
			to := cloneKV(target)
			return work{[]*mapKV{to}, func() error {
				_, err := Restore(bg, bytes.NewReader(archive.Bytes()), archiveKey, New(to), newFence(1), ReplaceDevice(), RestoredUnchanged())
				return err
			}, tablesOf(to)}
		},
		"reseal": func() work {
			kv := cloneKV(sealed)
			return work{[]*mapKV{kv}, func() error {
				return New(kv, WithAEAD(second)).Reseal(bg, newFence(kv.epoch), nil)
			}, tablesOf(kv, WithAEAD(NewAESGCM(keyOf(2))))}
		},
		"drop import": func() work {
			kv := cloneKV(unfinished)
			return work{[]*mapKV{kv}, func() error {
				return DropImport(bg, New(kv), newFence(1))
			}, func(*testing.T) any { return content(kv) }}
		},
		"purge rows": func() work {
			kv := cloneKV(sealed)
			return work{[]*mapKV{kv}, func() error {
				return New(kv, WithAEAD(first)).PurgeRows(bg, newFence(kv.epoch))
			}, func(*testing.T) any { return content(kv) }}
		},
		"purge the deleted device": func() work {
			kv := cloneKV(deleted)
			return work{[]*mapKV{kv}, func() error {
				return New(kv).PurgeDevice(bg, newFence(kv.epoch))
			}, func(t *testing.T) any {
				for k := range kv.data {
					require.NotContains(t, k.ID, "d0/", "nothing of it stays: %v", k)
				}
				return content(kv)
			}}
		},
		"bring the deleted device back": func() work {
			kv := cloneKV(deleted)
			return work{[]*mapKV{kv}, func() error {
				return New(kv).Restore(bg, newFence(kv.epoch))
			}, tablesOf(kv)}
		},
		"seal the names": func() work {
			kv := cloneKV(named)
			return work{[]*mapKV{kv}, func() error {
				return New(kv, nameSeal, WithSealedNames()).Reseal(bg, newFence(kv.epoch), nil)
			}, func(t *testing.T) any {
				c, _, _ := open(t, kv, nameSeal)
				c.cfg.background.Wait() // it looks for parts that belong to nothing
				require.NoError(t, c.Close(bg))
				require.Empty(t, telling(kv))
				require.False(t, moving(t, kv))
				return tablesOf(kv, nameSeal)(t)
			}}
		},
		"list": func() work {
			kv := cloneKV(sealed)
			return work{[]*mapKV{kv}, func() error {
				_, err := New(kv, WithAEAD(first)).Quarantined(bg)
				return err
			}, none}
		},
	} {
		t.Run(name, func(t *testing.T) {
			whole := begin()
			require.NoError(t, whole.do())
			want := whole.end(t)
			for at := int64(1); ; at++ {
				w := begin()
				var calls atomic.Int64 // some come from goroutines of the store's
				fault := fmt.Errorf("%w: call %d", ErrTooLarge, at)
				for _, kv := range w.kvs {
					kv.before.set(func(string, Batch) error {
						if calls.Add(1) == at {
							return fault
						}
						return nil
					})
				}
				err := w.do()
				fired := calls.Load() >= at
				calls.Store(at + 1)
				if !fired {
					require.NoError(t, err)
					require.Greater(t, at, int64(2))
					break
				}
				if name != "seal the names" { // which counts rows, and leaves to the next start what belongs to nothing
					require.ErrorIs(t, err, fault)
				}
				require.NoError(t, w.do(), "it may be called again, after call %d has failed", at)
				require.Equal(t, want, w.end(t), "after call %d has failed", at)
			}
		})
	}
}

// A disk that is full, or a connection that breaks off, makes no backup: each write
// that fails is told.
func TestBackupThatWasNotWrittenIsNone(t *testing.T) {
	kv, f := source(t)
	c, d, _ := open(t, kv)
	require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(1), "LARGE", make([]byte, 3*archiveChunk)))
	require.NoError(t, c.Close(bg))
	full := errors.New("the disk is full")
	for at := 1; ; at++ {
		writes := 0
		_, err := Export(bg, FromKV("old", kv, f), writerFunc(func(p []byte) (int, error) {
			if writes++; writes == at {
				return 0, full
			}
			return len(p), nil
		}), archiveKey)
		if writes < at {
			require.NoError(t, err)
			require.Greater(t, at, 4)
			break
		}
		require.ErrorIs(t, err, full, "write %d", at)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// Work on a whole account that is cancelled stops soon, wherever it is.
func TestCancelledBackupStops(t *testing.T) {
	kv, f := source(t)
	for at := 1; at < importTables; at++ {
		ctx, cancel := context.WithCancelCause(bg)
		enough := errors.New("that is enough")
		last := 0
		_, err := Export(ctx, FromKV("old", kv, f), io.Discard, archiveKey, OnProgress(func(p Progress) {
			if last = p.Table; last == at {
				cancel(enough)
			}
		}))
		require.ErrorIs(t, err, enough)
		require.Equal(t, at, last)
	}
}
