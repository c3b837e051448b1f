package stability

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/stability/internal/book"
)

// A sender uses one id in two chats, and both messages are in hand.
func TestEventBelongsToTheMessageOfItsChat(t *testing.T) {
	sender := types.NewJID("2", types.HiddenUserServer)
	group, other := types.NewJID("1", types.GroupServer), types.NewJID("3", types.GroupServer)
	r := bookOf()
	r.inHand = map[book.Key]*delivery{}
	of := map[types.JID]*delivery{}
	for _, chat := range []types.JID{group, other, sender} {
		k := book.Key{ID: "A", Chat: chat.String(), Sender: sender.String()}
		if chat == sender {
			k.Sender = ""
		}
		of[chat] = &delivery{key: k, named: k}
		r.inHand[k] = of[chat]
	}
	for range 50 { // the order of a map is another one each time
		for chat, d := range of {
			info := types.MessageInfo{ID: "A", MessageSource: types.MessageSource{Chat: chat, Sender: sender, IsGroup: chat != sender}}
			require.Same(t, d, r.of(info, nil), chat)
		}
	}
}

// A careful mode has written a message down that nobody misses and that comes again as an
// old counter.
func TestMessageOfNoUseStaysHidden(t *testing.T) {
	r, k := bookOf(), book.Key{ID: "A"}
	rec := messageRecord{Entry: book.Entry{Key: k, State: book.Undecrypted, First: time.Now(), Hidden: true}, Begun: true, Deaths: 1}
	r.note(rec)
	r.book.Load([]book.Entry{rec.Entry})
	d := &delivery{a: &attachment{m: r.m}, key: k}
	require.True(t, r.take(d))
	d.course.OldCounter()
	r.ended(d)
	e, _ := r.book.Find(k)
	require.Equal(t, book.Undecrypted, e.State)
	require.True(t, e.Hidden)
	require.True(t, r.more[k].Hidden)
	require.False(t, r.more[k].Begun)
}
