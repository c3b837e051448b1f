package stability

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability/internal/book"
	"github.com/wastability/wastability/stability/internal/course"
)

// A message to a bot has parts that are in no event buffer: whatsmeow finishes none of them.
func TestPartThatThrewIsKeptThoughAnotherOneBegins(t *testing.T) {
	for name, next := range map[string]func(t *testing.T, d *delivery){
		"the event buffer is asked for the next": func(t *testing.T, d *delivery) {
			require.NoError(t, d.Begin(t.Context(), [32]byte{2}, nil))
		},
		"the next is in no event buffer either": func(_ *testing.T, d *delivery) { d.keepThrown(d.course.Tell()) },
	} {
		t.Run(name, func(t *testing.T) {
			var d delivery
			d.content.begin(&events.Message{RawMessage: &waE2E.Message{Conversation: proto.String("first")}})
			require.Equal(t, course.Untold, d.course.Tell())
			require.True(t, d.course.Give())
			d.course.Panicked("boom")
			next(t, &d)
			require.Len(t, d.content.kept, 1)
			is, why := d.course.Outcome(course.Sight{Admits: true, Content: true})
			require.Equal(t, book.Saved, is)
			require.Equal(t, "boom", why)
		})
	}
}
