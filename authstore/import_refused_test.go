package authstore

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"
)

// changing is a source that is another one when it is opened again.
type changing struct {
	Source
	then func(view) view
	n    int
}

func (c *changing) open(ctx context.Context) (view, error) {
	v, err := c.Source.open(ctx)
	if c.n++; c.n > 1 && err == nil {
		v = c.then(v)
	}
	return v, err
}

type otherDevice struct{ view }

func (otherDevice) jid() types.JID { return testJID(2) }

type otherBook struct{ view }

func (o otherBook) table(ctx context.Context, t tableID) (*image, error) {
	im, err := o.view.table(ctx, t)
	if err == nil && t == tMessage {
		im.apply(put(tMessage, "new", []byte("came meanwhile")))
	}
	return im, err
}

// An import that must not go on says so, and leaves the target as it was.
func TestImportThatMustNotGoOnLeavesNothing(t *testing.T) {
	synctest.Test(t, importThatMustNotGoOn)
}

func importThatMustNotGoOn(t *testing.T) {
	kv, f := source(t)
	src := FromKV("old", kv, f)
	lost := newFence(1)
	lost.lost.Store(true)
	closed := New(newMapKV())
	require.NoError(t, closed.Close(bg))
	for name, c := range map[string]struct {
		from Source
		to   *Container
		f    Fence
		want error
	}{
		"without a term":                 {src, New(newMapKV()), nil, ErrFenced},
		"without the lock":               {src, New(newMapKV()), lost, ErrFenced},
		"into a container that is over":  {src, closed, newFence(1), ErrSuperseded},
		"from a source that was swapped": {&changing{src, func(v view) view { return otherDevice{v} }, 0}, New(newMapKV()), newFence(1), ErrSourceChanged},
		"from one that receives":         {&changing{src, func(v view) view { return otherBook{v} }, 0}, New(newMapKV()), newFence(1), ErrSourceChanged},
	} {
		began := time.Now()
		_, err := Import(bg, c.from, c.to, c.f)
		require.ErrorIs(t, err, c.want, name)
		require.Equal(t, began, time.Now(), "it waits for nothing")
		next := New(c.to.kv)
		info, err := next.Info(bg)
		require.NoError(t, err)
		require.False(t, info.Exists)
		if c.want != ErrSourceChanged {
			require.Empty(t, c.to.kv.(*mapKV).data)
		}
		require.Zero(t, c.to.kv.(*mapKV).count("message"), "the book is the account's")
	}
	_, err := Import(bg, src, New(newMapKV()), lost, DryRun())
	require.NoError(t, err, "a look needs no lock")
}

// What says which rows an unfinished import has written is not guessed at. It goes when
// the import is given up.
func TestDamagedNoteOfAnImportIsLeftAloneUntilItIsDropped(t *testing.T) {
	kv, f := source(t)
	for name, body := range map[string]string{"no JSON": "{", "another's rows": `{"gen":"d0"}`, "no rows": `{}`} {
		t.Run(name, func(t *testing.T) {
			to := newMapKV()
			c := New(to)
			raw, err := c.cfg.codec.wrap(importKey(), 0, []byte(body))
			require.NoError(t, err)
			to.data[importKey()] = string(raw)
			_, err = Import(bg, FromKV("old", kv, f), c, newFence(1))
			require.ErrorIs(t, err, ErrCorrupt)
			require.Len(t, to.data, 1)
			require.Equal(t, string(raw), to.data[importKey()])
			of := Key{"session", "d0/1:0"} // of a device, whatever the note says
			to.data[of] = "session"
			require.NoError(t, DropImport(bg, c, newFence(1)))
			require.Len(t, to.data, 1)
			require.Contains(t, to.data, of)
		})
	}
}

// A device that has moved, from a source that could not be marked: who called is
// told to keep it from being used.
func TestSourceThatCannotBeMarkedIsTold(t *testing.T) {
	kv, f := source(t)
	to := newMapKV()
	full := errors.New("the disk is full")
	kv.before.set(func(op string, _ Batch) error {
		if op == "commit" {
			return errors.Join(ErrTooLarge, full)
		}
		return nil
	})
	r, err := Import(bg, FromKV("old", kv, f), New(to), newFence(1), RetireSource())
	require.ErrorIs(t, err, full)
	require.ErrorContains(t, err, "never use it again")
	require.False(t, r.Retired)
	info, err := New(to).Info(bg)
	require.NoError(t, err)
	require.True(t, info.Exists, "the device has moved")

	kv.before.set(nil)
	r, err = Import(bg, FromKV("old", kv, f), New(newMapKV()), newFence(1), RetireSource())
	require.NoError(t, err)
	require.True(t, r.Retired)
}
