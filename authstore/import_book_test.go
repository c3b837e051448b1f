package authstore

import (
	"bytes"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"
)

// A message that no handler has taken yet is nowhere else: WhatsApp has it no more.
func TestImportLosesNoMessageThatWaits(t *testing.T) {
	entries := func(kv *mapKV) map[string]string {
		c := New(kv)
		defer func() { require.NoError(t, c.Close(bg)) }()
		_, err := c.Device(bg, newFence(kv.epoch))
		require.NoError(t, err)
		rows, err := c.MessageEntries(bg)
		require.NoError(t, err)
		out := make(map[string]string)
		for id, v := range rows {
			out[id] = string(v)
		}
		return out
	}
	write := func(kv *mapKV, f *testFence, add map[string]string) {
		c := New(kv)
		_, err := c.Device(bg, f)
		require.NoError(t, err)
		for id, v := range add {
			require.NoError(t, c.PutMessageEntry(bg, id, []byte(v), true))
		}
		require.NoError(t, c.Close(bg))
	}
	type side struct {
		kv *mapKV
		f  *testFence
	}
	setup := func() (src, to side) {
		src.kv, src.f = source(t)
		write(src.kv, src.f, map[string]string{"theirs": "kept there", "both": "as it is there"})
		to.kv, to.f = newMapKV(), newFence(1)
		c := New(to.kv)
		paired(t, c, to.f)
		require.NoError(t, c.Close(bg))
		write(to.kv, to.f, map[string]string{"ours": "kept here", "both": "as it is here"})
		return src, to
	}
	joined := func(src side, both string) map[string]string {
		want := entries(src.kv)
		maps.Copy(want, map[string]string{"ours": "kept here", "theirs": "kept there", "both": both})
		return want
	}

	t.Run("import", func(t *testing.T) {
		src, to := setup()
		want := joined(src, "as it is there")
		_, err := Import(bg, FromKV("old", src.kv, src.f), New(to.kv), to.f, ReplaceDevice())
		require.NoError(t, err)
		require.Equal(t, want, entries(to.kv))
	})
	t.Run("an import that fails leaves the target's, and brings nothing", func(t *testing.T) {
		for _, at := range []Progress{{Phase: "copy", Kind: "lid"}, {Phase: "verify", Kind: "lid"}, {Phase: "copy", Kind: "message"}, {Phase: "verify", Kind: "message"}} {
			src, to := setup()
			before := entries(to.kv)
			_, err := Import(bg, FromKV("old", src.kv, src.f), New(to.kv), to.f, ReplaceDevice(), OnProgress(func(p Progress) {
				if p.Phase == at.Phase && p.Kind == at.Kind {
					src.f.lost.Store(true)
				}
			}))
			require.ErrorIs(t, err, ErrSourceInUse)
			require.Equal(t, before, entries(to.kv))
		}
	})
	t.Run("an archive is older than what the target knows", func(t *testing.T) {
		src, to := setup()
		want := joined(src, "as it is here")
		var b bytes.Buffer
		_, err := Export(bg, FromKV("old", src.kv, src.f), &b, [32]byte{1})
		require.NoError(t, err)
		_, err = Restore(bg, &b, [32]byte{1}, New(to.kv), to.f, ReplaceDevice())
		require.NoError(t, err)
		require.Equal(t, want, entries(to.kv))
	})
	t.Run("an entry that is damaged and that both know is as it was after an import that fails", func(t *testing.T) {
		src, to := setup()
		key := Key{"message", globalGen + "/both"}
		to.kv.mu.Lock()
		require.Contains(t, to.kv.data, key)
		to.kv.data[key] = garbage
		to.kv.mu.Unlock()
		written := false
		_, err := Import(bg, FromKV("old", src.kv, src.f), New(to.kv), to.f, ReplaceDevice(), OnProgress(func(p Progress) {
			if p.Phase == "verify" && p.Kind == "message" {
				to.kv.mu.Lock()
				written = to.kv.data[key] != garbage
				to.kv.mu.Unlock()
				src.f.lost.Store(true)
			}
		}))
		require.ErrorIs(t, err, ErrSourceInUse)
		require.True(t, written)
		require.Equal(t, garbage, to.kv.data[key])

		src.f.lost.Store(false)
		_, err = Import(bg, FromKV("old", src.kv, src.f), New(to.kv), to.f, ReplaceDevice())
		require.NoError(t, err)
		require.Equal(t, "as it is there", entries(to.kv)["both"])
		require.Equal(t, 1, to.kv.count(kindQuarantine))
	})
	t.Run("an entry that is damaged stays", func(t *testing.T) {
		src, to := setup()
		key := Key{"message", globalGen + "/ours"}
		to.kv.mu.Lock()
		require.Contains(t, to.kv.data, key)
		to.kv.data[key] = garbage
		to.kv.mu.Unlock()
		_, err := Import(bg, FromKV("old", src.kv, src.f), New(to.kv), to.f, ReplaceDevice())
		require.NoError(t, err)
		require.Equal(t, garbage, to.kv.data[key])
	})
}
