package authstore

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
)

// Stored bytes of any content decode or are refused: no panic, no allocation
// that the input did not pay for.

func FuzzDecode(f *testing.F) {
	k := Key{"session", "d0/1:0"}
	key := NewAESGCM([32]byte{1})
	for _, c := range []codec{{}, {aead: key}} {
		v, _ := c.encode(k, "", false, []byte("value"))
		f.Add(v)
		v, _ = c.encode(k, "a long id", true, []byte("value"))
		f.Add(v)
		v, _ = c.encodeManifest(k, manifest{nonce: "n", count: 3, size: 9})
		f.Add(v)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, c := range []codec{{}, {aead: key}, {aead: key, allowPlain: true}} {
			if _, err := c.decode(k, "1:0", raw); err != nil {
				require.True(t, permanent(err), "%v", err)
			}
		}
	})
}

func FuzzPacked(f *testing.F) {
	f.Add(encodePacked([]string{"a", "b"}, func(id string) []byte { return []byte(id + "x") }))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x0f, 1})
	f.Fuzz(func(t *testing.T, raw []byte) {
		n := 0
		_ = decodePacked(raw, func(id string, v []byte) { n += len(id) + len(v) })
		require.LessOrEqual(t, n, len(raw))
		_, _ = decodeManifest(raw)
	})
}

// FuzzRows puts any content behind a good checksum into every table.
func FuzzRows(f *testing.F) {
	f.Add(uint8(tPreKey), encodePacked([]string{"000001"}, func(string) []byte { return []byte("short") }))
	f.Add(uint8(tSession), []byte("\x0a\x01"))
	f.Add(uint8(tEvent), []byte{1, 2, 3})
	f.Add(uint8(tAppState), []byte{1})
	f.Add(uint8(tDevice), []byte(`{"jid":"1:1@s.whatsapp.net","noiseKey":"AA=="}`))
	f.Add(uint8(tHead), []byte(`{"gen":"d0","state":"paired"}`))
	kv := filled(f)
	f.Fuzz(func(t *testing.T, table uint8, data []byte) {
		tab := tableID(table % uint8(numTables))
		sp := specOf(tab)
		hurt := newMapKV()
		for k, v := range kv.data {
			if k.Kind == sp.kind {
				raw, err := codec{}.encode(k, "", false, data)
				require.NoError(t, err)
				v = string(raw)
			}
			hurt.data[k] = v
		}
		c := New(hurt)
		defer func() { _ = c.Close(bg) }()
		d, err := c.Device(bg, newFence(1))
		if err != nil {
			require.Contains(t, []tableID{tHead, tDevice}, tab)
			return
		}
		if d.ID == nil {
			return
		}
		useAll(t, d)
	})
}

func FuzzDevice(f *testing.F) {
	kv := filled(f)
	f.Add([]byte(storedDevice(f, kv)))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if s, err := decodeDevice(raw); err == nil {
			_ = s.fill(&store.Device{})
		}
		if h, err := decodeHead(raw); err == nil {
			_, err := h.encode()
			require.NoError(t, err)
		}
		_ = json.Valid(raw)
	})
}

// A transaction that is used after its end writes like any other call.
func TestATransactionIsOverWhenItReturns(t *testing.T) {
	kv := newMapKV()
	_, d, _ := open(t, kv)
	var late context.Context
	require.NoError(t, d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
		late = ctx
		return d.EventBuffer.PutBufferedEvent(ctx, [32]byte{1}, nil, time.Unix(1, 0))
	}))
	before := kv.commits.Load()
	require.NoError(t, d.Sessions.PutSession(late, "1:0", validSession(t, 1)))
	require.Equal(t, before+1, kv.commits.Load())
}
