package authstore

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func keyOf(n byte) [32]byte { return [32]byte{n} }

// reseal runs Reseal alone, as a tool does, and returns what progress said.
func reseal(t *testing.T, kv *mapKV, opts ...Option) (seen [][2]int, err error) {
	t.Helper()
	c := New(kv, opts...)
	err = c.Reseal(bg, newFence(kv.epoch), func(done, total int) { seen = append(seen, [2]int{done, total}) })
	return seen, err
}

func TestAKeyIsChangedWithoutLosingARow(t *testing.T) {
	kv := filled(t, WithAEAD(NewAESGCM(keyOf(1))))
	both := WithAEAD(NewAESGCM(keyOf(2), keyOf(1)))
	kv.setEpoch(2)
	c, d, _ := open(t, kv, both)
	useAll(t, d)
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 77)))
	require.NoError(t, c.Close(bg))
	require.True(t, NewAESGCM(keyOf(2)).(aesGCM).Current([]byte(kv.data[rowKey(d, tSession, "1:0")])[headerSize+sumSize:]),
		"what is written is written with the new key")
	_, err := New(kv, WithAEAD(NewAESGCM(keyOf(2)))).Device(bg, newFence(2))
	require.ErrorIs(t, err, ErrWrongKey, "the old key is still needed")

	orphan := Key{kindPart, "d0/secret-00000001-ABCDEFGHIJKLMNOP/0"}
	left, err := codec{aead: NewAESGCM(keyOf(1))}.wrap(orphan, 0, []byte("left over"))
	require.NoError(t, err)
	kv.data[orphan] = string(left)
	seen, err := reseal(t, kv, both)
	require.NoError(t, err)
	require.NotContains(t, kv.data, orphan, "what belongs to nothing does not keep the old key needed")
	last := seen[len(seen)-1]
	require.Equal(t, len(kv.data), last[1])
	require.Equal(t, last[1], last[0])
	commits := kv.commits.Load()
	_, err = reseal(t, kv, both)
	require.NoError(t, err)
	require.Equal(t, commits, kv.commits.Load(), "done is done")

	_, d, _ = open(t, kv, WithAEAD(NewAESGCM(keyOf(2))))
	useAll(t, d)
}

func TestSealingIsTurnedOnAndOffForExistingData(t *testing.T) {
	kv := filled(t)
	plain := maps.Clone(kv.data)
	on := []Option{WithAEAD(NewAESGCM(keyOf(1))), WithPlaintextAllowed()}
	_, err := reseal(t, kv, on[0])
	require.ErrorIs(t, err, ErrNotSealed, "plain data is not taken over by mistake")
	require.Equal(t, plain, kv.data)
	_, err = reseal(t, kv, on...)
	require.NoError(t, err)
	for k, v := range kv.data {
		require.NotZero(t, v[1]&flagSealed, k)
	}
	kv.setEpoch(2)
	c, d, _ := open(t, kv, on[0])
	useAll(t, d)
	require.NoError(t, c.Close(bg))

	_, err = reseal(t, kv, WithSealingRemoved(NewAESGCM(keyOf(1))))
	require.NoError(t, err)
	for k, v := range kv.data {
		require.Zero(t, v[1]&flagSealed, k)
	}
	_, d, _ = open(t, kv)
	useAll(t, d)
}

func TestAWrongKeyIsAClearErrorAndOverwritesNothing(t *testing.T) {
	kv := filled(t, WithAEAD(NewAESGCM(keyOf(1))))
	before := maps.Clone(kv.data)
	wrong := WithAEAD(NewAESGCM(keyOf(9)))
	_, err := New(kv, wrong).Device(bg, newFence(1))
	require.ErrorIs(t, err, ErrWrongKey)
	require.ErrorContains(t, err, "not passed to NewAESGCM")
	_, err = reseal(t, kv, wrong)
	require.ErrorIs(t, err, ErrWrongKey)
	// Also where the credentials open and a single row does not: half of a
	// change of keys whose old key was dropped too soon.
	mixed := filled(t, WithAEAD(NewAESGCM(keyOf(9))))
	for k, v := range before {
		if k.Kind == "session" {
			mixed.data[k] = v
		}
	}
	clone := maps.Clone(mixed.data)
	c := New(mixed, wrong)
	_, err = c.Device(bg, newFence(1))
	require.ErrorIs(t, err, ErrWrongKey)
	require.NoError(t, c.Close(bg))
	require.Equal(t, clone, mixed.data)
	require.Equal(t, before, kv.data)
}

// One who can write to the store, and knows the format, swaps two rows.
func TestSwappedSealedRowsAreFoundEvenWithTheirSumsMadeRight(t *testing.T) {
	key := WithAEAD(NewAESGCM(keyOf(1)))
	kv := filled(t, key)
	c, d, _ := open(t, kv, key)
	a, b := rowKey(d, tSession, "1:0"), rowKey(d, tSession, "2:0")
	require.NoError(t, c.Close(bg))
	forged := []byte(kv.data[b])
	sum := checksum(a, forged[:headerSize], forged[headerSize+sumSize:])
	forged[2], forged[3], forged[4], forged[5] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
	kv.data[a] = string(forged)
	var incidents []Incident
	_, d, _ = open(t, kv, key, WithOnIncident(func(i Incident) { incidents = append(incidents, i) }))
	v, err := d.Sessions.GetSession(bg, "1:0")
	require.NoError(t, err)
	require.Nil(t, v)
	require.Len(t, incidents, 1)
	require.ErrorIs(t, incidents[0].Err, ErrCorrupt)
}

// Reseal is broken off at every call, and repeated: nothing is lost on the way,
// whichever of the keys a row has.
func TestResealGoesOnWhereItWasBrokenOff(t *testing.T) {
	old, both := WithAEAD(NewAESGCM(keyOf(1))), WithAEAD(NewAESGCM(keyOf(2), keyOf(1)))
	full := newMapKV()
	full.limits = Limits{MaxValue: 4096, MaxBatch: 16_000, MaxKeys: 20}
	c, d, _ := open(t, full, old)
	fill(t, d)
	large := bytes.Repeat([]byte("0123456789"), 2000)
	require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, [32]byte{7}, large, time.Unix(1, 0)))
	require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, [32]byte{8}, bytes.Repeat([]byte{1}, 4096-headerSize-sumSize-40), time.Unix(1, 0)))
	require.NoError(t, c.Close(bg))
	for at, whole := 0, false; !whole; at++ {
		synctest.Test(t, func(t *testing.T) {
			kv := newMapKV()
			kv.data, kv.limits = maps.Clone(full.data), full.limits
			calls := 0
			kv.before.set(func(string, Batch) error {
				if calls++; calls > at {
					return errDown
				}
				return nil
			})
			_, err := reseal(t, kv, both)
			kv.before.set(nil)
			if whole = err == nil && calls <= at; !whole {
				require.ErrorIs(t, err, errDown)
				_, err = reseal(t, kv, both)
				require.NoError(t, err)
			}
			c, d, _ := open(t, kv, WithAEAD(NewAESGCM(keyOf(2))))
			c.cfg.background.Wait()
			require.Equal(t, full.count(kindPart), kv.count(kindPart), "the old parts are gone, and those that were never used")
			useAll(t, d)
			e, err := d.EventBuffer.GetBufferedEvent(bg, [32]byte{7})
			require.NoError(t, err)
			require.True(t, bytes.Equal(large, e.Plaintext))
			require.NoError(t, c.Close(bg))
		})
		require.False(t, whole && at <= 10)
	}
}

// A device works while Reseal runs; no write of it is undone.
func TestResealBesideALiveDeviceUndoesNoWrite(t *testing.T) {
	kv := newMapKV()
	c, d, f := open(t, kv, WithAEAD(NewAESGCM(keyOf(2), keyOf(1))))
	sessions := make(map[string][]byte)
	for i := range 300 {
		sessions[string(rune('a'+i%26))+string(rune('a'+i/26))+":0"] = validSession(t, 1)
	}
	require.NoError(t, d.Sessions.PutManySessions(bg, sessions))
	require.NoError(t, storeOf(d).flush("t"))
	// As if everything had been written with the old key.
	was := New(kv, WithAEAD(NewAESGCM(keyOf(1), keyOf(2))))
	require.NoError(t, was.Reseal(bg, f, nil))
	kv.before.set(func(op string, b Batch) error {
		if op == "commit" && len(b.Put) > resealChunk/2 {
			time.Sleep(2 * time.Millisecond) // between what it has read and what it writes
		}
		return nil
	})
	stop, stopped := make(chan struct{}), make(chan error, 1)
	last := make(map[string]uint32)
	go func() {
		defer close(stopped)
		for n := uint32(2); ; n++ {
			for a := range sessions {
				select {
				case <-stop:
					return
				default:
				}
				if err := d.Sessions.PutSession(bg, a, validSession(t, n)); err != nil {
					stopped <- err
					return
				}
				last[a] = n
			}
		}
	}()
	require.NoError(t, c.Reseal(bg, f, nil))
	close(stop)
	require.NoError(t, <-stopped)
	require.NoError(t, c.Close(bg))
	kv.setEpoch(2)
	_, d, _ = open(t, kv, WithAEAD(NewAESGCM(keyOf(2))))
	for a, n := range last {
		v, err := d.Sessions.GetSession(bg, a)
		require.NoError(t, err)
		require.Equal(t, n, sessionCounter(t, v))
	}
}

func TestResealNeedsTheLock(t *testing.T) {
	kv := filled(t)
	before := maps.Clone(kv.data)
	c := New(kv, WithAEAD(NewAESGCM(keyOf(1))), WithPlaintextAllowed())
	require.ErrorIs(t, c.Reseal(bg, newFence(kv.epoch+1), nil), ErrFenced)
	f := newFence(kv.epoch)
	f.lost.Store(true)
	require.ErrorIs(t, c.Reseal(bg, f, nil), ErrFenced)
	require.Equal(t, before, kv.data)
	ctx, cancel := context.WithCancel(bg)
	cancel()
	require.ErrorIs(t, c.Reseal(ctx, newFence(kv.epoch), nil), context.Canceled)
}

// A cipher from elsewhere, of which nothing is known but Tink's two methods.
type foreignAEAD struct{ inner AEAD }

func (a foreignAEAD) Encrypt(p, ad []byte) ([]byte, error) { return a.inner.Encrypt(p, ad) }
func (a foreignAEAD) Decrypt(c, ad []byte) ([]byte, error) {
	out, err := a.inner.Decrypt(c, ad)
	if err != nil {
		return nil, errors.New("aead::decryption failed")
	}
	return out, nil
}

func TestAForeignCipherThatFailsNeverCostsARow(t *testing.T) {
	kv := filled(t, WithAEAD(foreignAEAD{NewAESGCM(keyOf(1))}))
	before := maps.Clone(kv.data)
	c := New(kv, WithAEAD(foreignAEAD{NewAESGCM(keyOf(2))}))
	_, err := c.Device(bg, newFence(1))
	require.ErrorIs(t, err, ErrWrongKey)
	require.NoError(t, c.Close(bg))
	require.Equal(t, before, kv.data)
	_, err = reseal(t, kv, WithAEAD(foreignAEAD{NewAESGCM(keyOf(2), keyOf(1))}))
	require.NoError(t, err)
	_, d, _ := open(t, kv, WithAEAD(foreignAEAD{NewAESGCM(keyOf(2))}))
	useAll(t, d)
}
