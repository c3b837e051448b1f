package stability

import (
	"context"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/stability/internal/book"
	"github.com/wastability/wastability/stability/internal/course"
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

// A listed message may have changed by the time that something is done about it.
func TestMessageThatChangedMeanwhileIsLeftAsItIs(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(r *received, k book.Key)
		still     book.State // "" for one that is gone
	}{
		"its content came": {func(r *received, k book.Key) {
			e, _ := r.book.Recovered(k, "", time.Now())
			r.note(messageRecord{Entry: e, Contents: [][]byte{{1}}})
		}, book.Kept},
		"it came again":  {func(r *received, k book.Key) { r.book.Tried(k, time.Now()) }, book.InHand},
		"it was removed": {func(r *received, k book.Key) { r.book.Remove(k) }, ""},
		"it was removed and missed again": {func(r *received, k book.Key) {
			r.book.Remove(k)
			r.book.Load([]book.Entry{{Key: k, State: book.Undecrypted, First: time.Now().Add(time.Hour)}})
		}, book.Undecrypted},
	} {
		t.Run(name, func(t *testing.T) {
			r := bookOf()
			rec := messageRecord{Entry: book.Entry{Key: book.Key{ID: "A"}, State: book.Undecrypted, First: time.Now()}}
			r.note(rec)
			r.book.Load([]book.Entry{rec.Entry})
			listed, _ := r.book.Find(rec.Key)
			require.True(t, r.still(listed))
			c.meanwhile(r, rec.Key)
			require.False(t, r.still(listed), "nobody asks for it")
			r.aside(listed, "nobody has sent it again")
			e, _ := r.book.Find(rec.Key)
			require.Equal(t, c.still, e.State, "it is not set aside")
			require.Equal(t, c.still == book.Kept, r.take(&delivery{key: rec.Key, course: course.Course{Origin: course.Store}}), "only what is kept is handed over")
			require.Equal(t, c.still != "", len(r.book.Entries()) == 1)
		})
	}
	r := bookOf()
	rec := messageRecord{Entry: book.Entry{Key: book.Key{ID: "A"}, State: book.Undecrypted}}
	r.note(rec)
	r.book.Load([]book.Entry{rec.Entry})
	r.removals.begin(rec.Key)
	require.False(t, r.still(rec.Entry), "it is being removed")
}

// keptRows is a book of messages.
type keptRows struct {
	rows   map[string][]byte
	beside func() // is called before a row is written
}

func (s *keptRows) MessageEntries(context.Context) (map[string][]byte, error) { return s.rows, nil }

func (s *keptRows) PutMessageEntry(_ context.Context, id string, entry []byte, _ bool) error {
	if f := s.beside; f != nil {
		f()
	}
	if s.rows[id] = entry; entry == nil {
		delete(s.rows, id)
	}
	return nil
}

// A message is handled, removed, or its content comes, while an older row of it is on
// its way to the store.
func TestLastRowIsTheTrueOne(t *testing.T) {
	k := book.Key{ID: "A"}
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		r := bookOf()
		s := &keptRows{rows: make(map[string][]byte)}
		r.m.can.book, r.term.read = s, true
		left := 6
		changed := func() change {
			r.mu.Lock()
			defer r.mu.Unlock()
			if rng.IntN(3) == 0 {
				delete(r.more, k)
			} else {
				r.note(messageRecord{Entry: book.Entry{Key: k, State: book.Undecrypted, Tries: rng.IntN(3)}})
			}
			return r.changed(k)
		}
		s.beside = func() {
			if left--; left > 0 && rng.IntN(2) == 0 {
				is := changed()
				if rng.IntN(2) == 0 { // it is written before the older one, else behind it
					require.NoError(t, r.write(t.Context(), is, false))
				}
			}
		}
		require.NoError(t, r.write(t.Context(), changed(), true))
		raw, stands := s.rows[recordID(k)]
		is, known := r.more[k]
		require.Equal(t, known, stands, "seed %d", seed)
		if known {
			var row messageRecord
			require.NoError(t, json.Unmarshal(raw, &row))
			require.Equal(t, is.Tries, row.Tries, "seed %d", seed)
		}
	}
}

// Somebody has asked for an old message again, and its handlers fail once more.
func TestMessageThatIsAskedForAgainHasFailedSinceThen(t *testing.T) {
	r := bookOf()
	asked := time.Now().Add(-time.Minute)
	r.book.Load([]book.Entry{{Key: book.Key{ID: "A"}, State: book.Kept, First: asked.Add(-240 * time.Hour), Anew: asked, Since: asked, Last: asked, Tries: 1}})
	var f guard.Facts
	r.facts(&f)
	require.Equal(t, asked, f.WaitingSince, "nobody is told of it at once")
	require.Contains(t, r.status(time.Now(), true).Text, "it was received 240h1m ago")
}

// Two builds take turns, as in a deploy that goes on for long: each dies of a message, and
// the other one is next.
func TestBuildsThatTakeTurnsFindTheMessageThatKills(t *testing.T) {
	now := build
	defer func() { build = now }()
	r := bookOf()
	r.m.cfg.logger = slog.New(slog.DiscardHandler)
	rec := messageRecord{Entry: book.Entry{Key: book.Key{ID: "A"}}}
	deaths := 0
	for rec.State != book.LeftAlone {
		deaths++
		require.Less(t, deaths, 8, "it dies for ever")
		build = func() string { return []string{"one", "two"}[deaths%2] }
		r.more, r.care.past = map[book.Key]messageRecord{rec.Key: rec}, careInNeed
		begun, write, alone := r.accused(&delivery{key: rec.Key})
		require.True(t, write && !alone)
		build = func() string { return []string{"two", "one"}[deaths%2] }
		rec = r.survivor(begun, false)
	}
	require.LessOrEqual(t, deaths, 4)
	build = func() string { return "three" }
	require.Equal(t, book.AtService, r.survivor(rec, false).State, "this one may be mended")
}

// The message that is in hand is another one than what is kept under its id. Another build
// has died of it before.
func TestMessageThatIsSplitOffKeepsTheBuildsThatBeganIt(t *testing.T) {
	r, k := bookOf(), book.Key{ID: "A"}
	r.book.Load([]book.Entry{{Key: k, State: book.Kept}})
	r.note(messageRecord{Entry: book.Entry{Key: k, State: book.Kept}, Contents: [][]byte{{1}}, Begun: true, Deaths: 2, Build: "two", Builds: []string{"one"}})
	d := &delivery{a: &attachment{m: r.m}, key: k}
	require.True(t, r.take(d))
	require.NoError(t, r.split(t.Context(), d, []byte{2}))
	require.Equal(t, "two", r.more[k].Build)
	require.Equal(t, []string{"one"}, r.more[k].Builds)
}

// A message of the phone to the account's own devices may be wrapped as one that another
// of its devices has sent.
func TestRefusedWordOfThePhoneIsKeptHoweverItIsWrapped(t *testing.T) {
	word := &waE2E.Message{ProtocolMessage: &waE2E.ProtocolMessage{}}
	for name, c := range map[string]struct {
		category string
		m        *waE2E.Message
		want     book.Outcome
	}{
		"as it is":         {"peer", word, book.Saved},
		"wrapped":          {"peer", &waE2E.Message{DeviceSentMessage: &waE2E.DeviceSentMessage{Message: word}}, book.Saved},
		"a text":           {"peer", &waE2E.Message{Conversation: proto.String("text")}, book.Declined},
		"not of the phone": {"", word, book.Declined},
	} {
		t.Run(name, func(t *testing.T) {
			d := &delivery{a: &attachment{}, node: &waBinary.Node{Tag: "message", Attrs: waBinary.Attrs{"category": c.category}}, content: content{parts: []*waE2E.Message{c.m}}}
			d.course.Refused()
			o, why := d.outcome()
			require.Equal(t, c.want, o)
			require.Equal(t, course.WhyRefused, why)
		})
	}
}

// Of one message whatsmeow gives no event: the phone's answer, whose contents are events
// of their own. Any other that no handler was given is kept.
func TestDeletionIsNotTakenForThePhonesAnswer(t *testing.T) {
	answer := &waE2E.ProtocolMessage{PeerDataOperationRequestResponseMessage: &waE2E.PeerDataOperationRequestResponseMessage{
		PeerDataOperationRequestType: waE2E.PeerDataOperationRequestType_PLACEHOLDER_MESSAGE_RESEND.Enum(),
	}}
	deletion := &waE2E.ProtocolMessage{Type: waE2E.ProtocolMessage_REVOKE.Enum()}
	for name, c := range map[string]struct {
		m      *waE2E.Message
		silent bool
	}{
		"an answer":          {&waE2E.Message{ProtocolMessage: answer}, true},
		"a wrapped answer":   {&waE2E.Message{DeviceSentMessage: &waE2E.DeviceSentMessage{Message: &waE2E.Message{ProtocolMessage: answer}}}, true},
		"a deletion":         {&waE2E.Message{ProtocolMessage: deletion}, false},
		"a piece of history": {&waE2E.Message{ProtocolMessage: &waE2E.ProtocolMessage{HistorySyncNotification: &waE2E.HistorySyncNotification{}}}, false},
		"a text":             {&waE2E.Message{Conversation: proto.String("text")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := proto.Marshal(c.m)
			require.NoError(t, err)
			_, silent, ok := unpadded(append(raw, 1))
			require.True(t, ok)
			require.Equal(t, c.silent, silent)
		})
	}
}

// NoteCopied is the row of a note like another one, about another message.
func NoteCopied(t *testing.T, row []byte, id string, at time.Time) (rowID string, copied []byte) {
	var n noteRecord
	require.NoError(t, json.Unmarshal(row, &n))
	require.True(t, n.Note)
	require.Len(t, n.Found, 1)
	n.Key.ID, n.Found[0].At = id, at
	copied, err := json.Marshal(n)
	require.NoError(t, err)
	return recordID(n.Key), copied
}

// A note is told from an entry by its kind, whatever else an entry may lack.
func TestNoteIsNoEntry(t *testing.T) {
	k, notes := book.Key{ID: "A"}, []foundNote{{Sum: "s", At: time.Now()}}
	for name, c := range map[string]struct {
		row   any
		entry bool
	}{
		"a note": {noteRecord{true, k, notes}, false},
		"a note of an earlier version": {struct {
			Key   book.Key
			Found []foundNote
		}{k, notes}, false},
		"an entry that was begun": {messageRecord{Entry: book.Entry{Key: k}, Build: "b", Begun: true, Found: notes}, true},
		"an entry that is kept":   {messageRecord{Entry: book.Entry{Key: k, State: book.Kept}, Found: notes}, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := bookOf()
			raw, err := json.Marshal(c.row)
			require.NoError(t, err)
			r.m.can.book = &keptRows{rows: map[string][]byte{recordID(k): raw}}
			require.NoError(t, r.load(t.Context(), 1, ownNames{}))
			require.Len(t, r.lately, 1)
			require.Equal(t, c.entry, len(r.more) == 1)
		})
	}
	r := bookOf()
	s := &keptRows{rows: make(map[string][]byte)}
	r.m.can.book, r.term.read = s, true
	r.found(k, notes[0], time.Now())
	require.NoError(t, r.write(t.Context(), r.changed(k), false))
	require.Contains(t, string(s.rows[recordID(k)]), `"Note":true`)
}
