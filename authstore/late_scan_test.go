package authstore

import (
	"context"
	"io"
	"iter"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
)

// lateScanKV holds back what the first look at a whole table of kind has read.
type lateScanKV struct {
	*mapKV
	kind  Kind
	begun atomic.Bool
	held  chan struct{}
}

func (l *lateScanKV) Scan(ctx context.Context, kind Kind, prefix string) iter.Seq2[Entry, error] {
	seq := l.mapKV.Scan(ctx, kind, prefix)
	if kind != l.kind || l.begun.Swap(true) {
		return seq
	}
	return func(yield func(Entry, error) bool) {
		rows, err := scanAll(seq)
		<-l.held
		if err != nil {
			yield(Entry{}, err)
			return
		}
		slices.Values(rows)(func(e Entry) bool { return yield(e, nil) })
	}
}

// A look at a whole table takes minutes. What it has read of a damaged row is not taken
// for the row that has been written there meanwhile.
func TestNewRowOutlivesALateLookAtTheTable(t *testing.T) {
	for name, c := range map[string]struct {
		kind Kind
		put  func(d *store.Device, n byte) error
		get  func(d *store.Device) (any, error)
		want any
		look func(c *Container, d *store.Device) error
	}{
		"an export reads the sender keys": {
			kind: "senderkey",
			put: func(d *store.Device, n byte) error {
				return d.SenderKeys.PutSenderKey(bg, "group", "1:0", validSenderKey([]byte{n}))
			},
			get:  func(d *store.Device) (any, error) { return d.SenderKeys.GetSenderKey(bg, "group", "1:0") },
			want: validSenderKey([]byte{2}),
			look: func(c *Container, _ *store.Device) error {
				_, err := Export(bg, FromContainer(c), io.Discard, archiveKey)
				return err
			},
		},
		"old sent messages are looked for": {
			kind: "outgoing",
			put: func(d *store.Device, n byte) error {
				return storeOf(d).AddOutgoingEvent(bg, testJID(2), "ID", "other", []byte{n})
			},
			get: func(d *store.Device) (any, error) {
				_, text, err := storeOf(d).GetOutgoingEvent(bg, testJID(2), testJID(2), "ID")
				return text, err
			},
			want: []byte{2},
			look: func(_ *Container, d *store.Device) error { return storeOf(d).deleteOldOutgoing("test") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				old, d, _ := open(t, kv)
				require.NoError(t, c.put(d, 1))
				require.NoError(t, old.Close(bg))
				require.Equal(t, 1, kv.count(c.kind))
				for k, v := range kv.data {
					if k.Kind == c.kind {
						kv.data[k] = v[:len(v)-1] + "?"
					}
				}
				kv.setEpoch(2)
				late := &lateScanKV{mapKV: kv, kind: c.kind, held: make(chan struct{})}
				told := 0
				now := New(late, WithOnIncident(func(Incident) { told++ }))
				d, err := now.Device(bg, newFence(2))
				require.NoError(t, err)
				looked := make(chan error, 1)
				go func() { looked <- c.look(now, d) }()
				synctest.Wait()
				_, err = c.get(d) // finds it damaged
				require.NoError(t, err)
				time.Sleep(time.Minute)
				require.Zero(t, kv.count(c.kind))
				require.NoError(t, c.put(d, 2))
				time.Sleep(time.Minute)
				close(late.held)
				require.NoError(t, <-looked)
				time.Sleep(time.Minute)
				require.NoError(t, now.Close(bg))
				require.Equal(t, 1, told)
				require.Equal(t, 1, kv.count(kindQuarantine))

				kv.setEpoch(3)
				_, d, _ = open(t, kv)
				got, err := c.get(d)
				require.NoError(t, err)
				require.Equal(t, c.want, got)
			})
		})
	}
}
