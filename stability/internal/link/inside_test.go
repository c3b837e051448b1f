package link

import (
	"context"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	waBinary "go.mau.fi/whatsmeow/binary"
)

func none(Reliance) bool { return false }

// The two shapes of whatsmeow's queue loop.
type older struct{ inner }

func (older) HandlerQueueLoop(_, _ context.Context)      {}
func (older) HandleFrame(_ context.Context, data []byte) {}

type newer struct{ inner }

func (newer) HandlerQueueLoop(_, _ context.Context, _ chan *waBinary.Node)      {}
func (newer) HandleFrame(_ context.Context, data []byte, _ chan *waBinary.Node) {}

type inner struct{}

func (inner) SendNode(context.Context, waBinary.Node) error { return nil }
func (inner) DispatchEvent(any) bool                        { return false }

func TestBothShapesOfTheQueueLoopAreKnown(t *testing.T) {
	for name, want := range map[string]struct {
		in      any
		shared  bool
		own     bool
		missing []Reliance
	}{
		"one queue a client":     {older{}, true, false, nil},
		"one queue a connection": {newer{}, false, true, nil},
		"another shape":          {inner{}, false, false, []Reliance{QueueLoop}},
		"nothing":                {struct{}{}, false, false, []Reliance{QueueLoop, SendInside, DispatchInside}},
	} {
		x := findInside(want.in, none)
		require.Equal(t, want.shared, x.shared != nil, name)
		require.Equal(t, want.own, x.own, name)
		x.tags, x.list = map[string]bool{"message": true}, true
		var missing []Reliance
		x.missing(func(r Reliance, problem string) {
			if problem != "" {
				missing = append(missing, r)
			}
		})
		require.Equal(t, want.missing, missing, name)
	}
}

type otherHandler func(ctx context.Context, node *waBinary.Node)

func TestTableOfAnotherTypeIsLeftAlone(t *testing.T) {
	called := 0
	h := func(context.Context, *waBinary.Node) { called++ }
	around := func(h nodeHandler) nodeHandler {
		return func(ctx context.Context, n *waBinary.Node) { h(ctx, n); h(ctx, n) }
	}
	good := &struct{ nodeHandlers map[string]otherHandler }{map[string]otherHandler{"message": h, "gone": nil}}
	require.Equal(t, map[string]bool{"message": true}, wrapTable(reflect.ValueOf(good), "nodeHandlers", around))
	good.nodeHandlers["message"](t.Context(), nil)
	require.Equal(t, 2, called)

	for _, other := range []any{
		&struct{}{},
		&struct{ nodeHandlers []otherHandler }{},
		&struct{ nodeHandlers map[int]otherHandler }{map[int]otherHandler{1: h}},
		&struct{ nodeHandlers map[string]func() }{map[string]func(){"message": nil}},
		&struct{ nodeHandlers map[string]otherHandler }{},
	} {
		require.Nil(t, wrapTable(reflect.ValueOf(other), "nodeHandlers", around), "%T", other)
	}
}

func TestResetIsKnownByItsFlag(t *testing.T) {
	c := &struct{ forceAutoReconnect atomic.Bool }{}
	require.False(t, flagged(reflect.ValueOf(c), "forceAutoReconnect"))
	c.forceAutoReconnect.Store(true)
	require.True(t, flagged(reflect.ValueOf(c), "forceAutoReconnect"))
	require.False(t, flagged(reflect.ValueOf(&struct{ forceAutoReconnect bool }{true}), "forceAutoReconnect"), "of another type")
	require.False(t, flagged(reflect.ValueOf(&struct{}{}), "forceAutoReconnect"))

	withBot(t, func(t *testing.T, b *bot) {
		conn := b.online()
		reset, newer := any(b.client).(interface{ ResetConnection() })
		if !newer {
			return
		}
		reset.ResetConnection()
		require.ErrorIs(t, conn.Err(), ErrReset)
		b.offline()
		b.client.Disconnect()
		conn = b.online()
		b.client.Disconnect()
		require.ErrorIs(t, conn.Err(), ErrDisconnected)
	})
}

func TestCountOfStanzasKnowsWhenTheyAreHandled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var w work
		waiting := func(n uint64) bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			return w.wait(ctx, n, calmTime) != nil
		}
		w.update(func() { w.received = 2 })
		require.EqualValues(t, 2, w.seen())
		require.True(t, w.left())
		require.True(t, waiting(2), "none has begun")
		require.False(t, waiting(0), "and none is running")
		first := w.begin()
		second := w.begin()
		require.False(t, w.left())
		require.True(t, waiting(1), "the first has not ended")
		require.True(t, waiting(0))
		first()
		require.False(t, waiting(1))
		require.True(t, waiting(2))
		time.AfterFunc(time.Second, second)
		require.False(t, waiting(2))
		w.begin()
		require.False(t, waiting(2), "the third came later")
		require.Zero(t, w.seen(), "nobody counted the third in")
	})
}

func TestAnswersToQueriesAreNotCounted(t *testing.T) {
	require.False(t, queued("iq", "result"))
	require.False(t, queued("iq", "error"))
	require.True(t, queued("iq", "set"))
	require.True(t, queued("message", "text"))
}
