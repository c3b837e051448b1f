package stability

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability/internal/book"
)

// bookOf is the book of messages of a Manager without a store.
func bookOf() *received {
	m := &Manager{changed: make(chan struct{})}
	m.received.m = m
	return &m.received
}

// A message was missed under its sender's number. What its sender sends again may come
// from the LID.
func TestResendByAnotherNameIsKnown(t *testing.T) {
	r, text := bookOf(), &waE2E.Message{Conversation: proto.String("found")}
	number, lid := types.NewJID("49152", types.DefaultUserServer), types.NewJID("777", types.HiddenUserServer)
	r.found(book.Key{ID: "A", Chat: number.String()}, foundNote{Sum: sumOf(text), At: time.Now()}, time.Now())
	from := func(j types.JID, id string) *delivery {
		return &delivery{
			a: &attachment{m: r.m, device: &store.Device{LIDs: oneContact{pn: number, lid: lid}}}, key: book.Key{ID: id, Chat: j.String()},
			node: &waBinary.Node{Tag: "message", Attrs: waBinary.Attrs{"id": id, "from": j}},
		}
	}
	require.True(t, r.resent(from(number, "A"), text))
	require.True(t, r.resent(from(lid, "A"), text))
	require.False(t, r.resent(from(lid, "B"), text))
	require.False(t, r.resent(from(types.NewJID("778", types.HiddenUserServer), "A"), text), "another's")
	require.False(t, r.resent(from(lid, "A"), &waE2E.Message{Conversation: proto.String("another")}))
}

// A clock was ahead when a message was found.
func TestNoteOfTheFutureIsNoOlderThanNow(t *testing.T) {
	r, k := bookOf(), book.Key{ID: "A"}
	r.remember([]messageRecord{{Entry: book.Entry{Key: k}, Found: []foundNote{{Sum: "s", At: time.Now().Add(24 * time.Hour)}}}})
	require.False(t, r.lately[0].At.After(time.Now()))
	require.Empty(t, r.notes(k, time.Now().Add(resentFor)), "it is forgotten in time")
}

// Another account is paired while a handler still has a message of the former one.
func TestMessageWithAHandlerIsNotSetAsideForItsAccount(t *testing.T) {
	r := bookOf()
	r.own = ownNames{"1", "11"}
	for _, id := range []string{"with a handler", "waits"} {
		rec := messageRecord{Entry: book.Entry{Key: book.Key{ID: id}, State: book.Kept, First: time.Now()}, Contents: [][]byte{{1}}}
		r.note(rec)
		r.book.Load([]book.Entry{rec.Entry})
	}
	r.book.Tried(book.Key{ID: "with a handler"}, time.Now())
	r.belongs(ownNames{"2", "22"})
	in, _ := r.book.Find(book.Key{ID: "with a handler"})
	require.Equal(t, book.InHand, in.State)
	waits, _ := r.book.Find(book.Key{ID: "waits"})
	require.Equal(t, book.SetAside, waits.State)
}

func TestMessagesThatNobodyCanDecryptHaveABound(t *testing.T) {
	r := bookOf()
	for n := range maxBare + 20 {
		rec := messageRecord{Entry: book.Entry{Key: book.Key{ID: string(rune('A' + n))}, State: book.Undecrypted, First: time.Now().Add(time.Duration(n))}}
		r.note(rec)
		r.book.Load([]book.Entry{rec.Entry})
	}
	r.missTooMany()
	require.Equal(t, maxBare, r.book.Sums().States[book.Undecrypted].Count)
	require.Equal(t, 20, r.book.Sums().States[book.SetAside].Count, "an operator sees them")
	e, _ := r.book.Find(book.Key{ID: "A"})
	require.Equal(t, book.SetAside, e.State, "the oldest go first")
	(&delivery{}).finished() // one that is handed over from here has no stanza
}

// What was to be set aside may be something else by then.
func TestMessageThatChangedMeanwhileIsNotSetAside(t *testing.T) {
	r := bookOf()
	rec := messageRecord{Entry: book.Entry{Key: book.Key{ID: "A"}, State: book.Kept, First: time.Now()}, Contents: [][]byte{{1}}}
	r.note(rec)
	r.book.Load([]book.Entry{rec.Entry})
	r.aside(rec.Key, book.Undecrypted, "nobody has sent it again")
	e, _ := r.book.Find(rec.Key)
	require.Equal(t, book.Kept, e.State, "its content is here: it is handed over")
	r.book.Tried(rec.Key, time.Now())
	r.aside(rec.Key, book.Kept, "another account's")
	e, _ = r.book.Find(rec.Key)
	require.Equal(t, book.InHand, e.State)
}

// keptRows is a store of entries and nothing else.
type keptRows struct {
	authstore.Store
	rows map[string][]byte
}

func (s keptRows) MessageEntries(context.Context) (map[string][]byte, error) { return s.rows, nil }

func (s keptRows) PutMessageEntry(_ context.Context, id string, entry []byte, _ bool) error {
	if s.rows[id] = entry; entry == nil {
		delete(s.rows, id)
	}
	return nil
}

// The phone answers, or the message is handled, while it is being noted that the phone
// was asked.
func TestRowOfAnAnswerIsTheLast(t *testing.T) {
	r, k := bookOf(), book.Key{ID: "A"}
	s := keptRows{rows: make(map[string][]byte)}
	r.m.store = s
	asked := messageRecord{Entry: book.Entry{Key: k, State: book.Undecrypted, Since: time.Now()}}
	kept := messageRecord{Entry: book.Entry{Key: k, State: book.Kept, Since: time.Now()}, Contents: [][]byte{{7}}}
	r.note(kept)
	r.storeStill(k, asked)
	var row messageRecord
	require.NoError(t, json.Unmarshal(s.rows[recordID(k)], &row))
	require.Equal(t, kept.Contents, row.Contents)
	delete(r.more, k)
	r.storeStill(k, asked)
	require.Empty(t, s.rows, "it was handled meanwhile")
	r.note(asked)
	r.storeStill(k, asked)
	require.NoError(t, json.Unmarshal(s.rows[recordID(k)], &row))
	require.Equal(t, book.Undecrypted, row.State)
}
