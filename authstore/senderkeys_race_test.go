package authstore

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// lateKV holds an answer back after it was read.
type lateKV struct {
	*mapKV
	read func()
}

func (l *lateKV) Get(ctx context.Context, keys ...Key) (map[Key][]byte, error) {
	out, err := l.mapKV.Get(ctx, keys...)
	l.read()
	return out, err
}

// A damaged sender key is being read while the group sends a new one. What was read
// comes late, and is not taken for what stands there by then.
func TestNewSenderKeyOutlivesALateLookAtTheDamagedOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		require.NoError(t, d.SenderKeys.PutSenderKey(bg, "group", "1:0", validSenderKey([]byte{1})))
		require.NoError(t, c.Close(bg))
		kv.mu.Lock()
		for k, v := range kv.data {
			if k.Kind == "senderkey" {
				kv.data[k] = v[:len(v)-1] + "?"
			}
		}
		kv.mu.Unlock()

		kv.setEpoch(2)
		late := &lateKV{kv, func() {}}
		c = New(late)
		d, err := c.Device(bg, newFence(2))
		require.NoError(t, err)
		held, first := make(chan struct{}), make(chan error, 1)
		late.read = func() {
			late.read = func() {}
			<-held
		}
		go func() {
			_, err := d.SenderKeys.GetSenderKey(bg, "group", "1:0")
			first <- err
		}()
		synctest.Wait()
		require.NoError(t, d.SenderKeys.PutSenderKey(bg, "group", "1:0", validSenderKey([]byte{2})))
		close(held)
		require.NoError(t, <-first)
		time.Sleep(time.Minute)
		require.NoError(t, c.Close(bg))

		_, d, _ = open(t, kv)
		key, err := d.SenderKeys.GetSenderKey(bg, "group", "1:0")
		require.NoError(t, err)
		require.Equal(t, validSenderKey([]byte{2}), key)
		require.Equal(t, 1, kv.count("quarantine"))
	})
}
