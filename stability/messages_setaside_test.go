package stability_test

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
)

// Somebody has to deal with what was set aside, so it goes only where the host says so,
// and not without a word.
func TestSetAsideMessageIsRemovedForItsAgeOnRequestOnly(t *testing.T) {
	t.Parallel()
	if stabilitytest.Race || os.Getenv("WASTABILITY_BACKEND") != "" {
		t.Skip("a day and more of virtual time, with nothing in it that the shorter ones do not do")
	}
	const gone = "a message that was set aside was removed for its age: nobody has dealt with it"
	for name, c := range map[string]struct {
		opts    []stability.Option
		removed int
	}{
		"by default": {nil, 0},
		"on request": {[]stability.Option{stability.WithAuthStoreOptions(authstore.WithRetention(authstore.Retention{SetAside: 72 * time.Hour}))}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				opts := append(c.opts, stability.WithAutoHeal(noHeal))
				a := w.tended("a", opts...)
				a.refuse = func(e *events.Message) bool {
					if e.Message.GetConversation() == "poison" {
						panic("boom")
					}
					return false
				}
				a.run().pair()
				time.Sleep(time.Hour)
				quiet := func() int { // commits of a day
					if c.removed == 0 {
						return 0 // nothing ever is old enough
					}
					before := a.wire.count("commit")
					time.Sleep(24 * time.Hour)
					return a.wire.count("commit") - before
				}
				nothing := quiet()
				w.getMessage("poison")
				for range 26 {
					time.Sleep(time.Hour)
					w.getMessage("good")
				}
				time.Sleep(time.Minute)
				r := a.balanced()
				require.Equal(t, 1, r.SetAside.Count)
				require.GreaterOrEqual(t, r.SetAside.Bytes, int64(len("poison")))
				since := a.m.Messages()[0].Since
				require.Equal(t, nothing, quiet(), "nothing is old enough, so nothing is written")
				a.stop()

				time.Sleep(time.Until(since.Add(71 * time.Hour)))
				var log logLines
				b := w.tended("b", append(opts, stability.WithLogger(log.logger()))...).run().ready()
				time.Sleep(50 * time.Minute)
				require.Equal(t, 1, b.balanced().SetAside.Count, "it is not old enough")
				require.Len(t, b.book.of(guard.TypeMessagesSetAside.ActiveID()), 0, "it is known already")
				time.Sleep(12 * time.Minute)
				r = b.balanced()
				require.EqualValues(t, c.removed, r.Removed)
				require.Equal(t, 1-c.removed, r.SetAside.Count)
				require.Equal(t, c.removed == 1, r.SetAside.Bytes == 0)
				require.Equal(t, c.removed, log.count(gone))
				require.Len(t, b.book.of(guard.TypeMessagesSetAside.ActiveID()), c.removed, "its incident is over")
				b.stop()
				d := w.tended("d", opts...).run().ready()
				require.Len(t, d.m.Messages(), 1-c.removed)
				d.stop()
			})
		})
	}
}
