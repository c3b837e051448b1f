package stability_test

import (
	"context"
	"crypto/sha256"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability"
)

// otherVersion is an event buffer as another version of whatsmeow uses it: versions
// since 2026 name a part of a message by more than its ciphertext.
type otherVersion struct {
	store.EventBuffer
	t      *testing.T
	m      *stability.Manager
	device *store.Device
	named  *atomic.Int64 // the parts that it has named otherwise
}

// inOtherVersion makes an instance run with it.
func (n *tended) inOtherVersion() *tended {
	n.otherNames = new(atomic.Int64)
	n.onSetup = func(c *whatsmeow.Client) {
		c.Store.EventBuffer = &otherVersion{c.Store.EventBuffer, n.w.t, n.m, c.Store, n.otherNames}
	}
	return n
}

// name is what the other version calls the part that this one calls hash.
func (o *otherVersion) name(ctx context.Context, hash [32]byte) [32]byte {
	for _, message := range stability.InHand(o.m) {
		for _, enc := range message.GetChildrenByTag("enc") {
			ciphertext, _ := enc.Content.([]byte)
			older, newer := sha256.Sum256(ciphertext), o.newer(ctx, message, enc)
			switch hash {
			case older:
				o.named.Add(1)
				return newer
			case newer:
				o.named.Add(1)
				return older
			}
		}
	}
	o.t.Errorf("whatsmeow has named a part in a way that is not known")
	return hash
}

// newer is a part's name in newer versions.
func (o *otherVersion) newer(ctx context.Context, message *waBinary.Node, enc waBinary.Node) [32]byte {
	a := message.AttrGetter()
	from, sender := a.OptionalJIDOrEmpty("from"), a.OptionalJIDOrEmpty("participant")
	if sender.IsEmpty() {
		sender = from
	}
	if lid, err := o.device.LIDs.GetLIDForPN(ctx, sender); err == nil && !lid.IsEmpty() {
		sender = lid
	}
	ciphertext, _ := enc.Content.([]byte)
	whole := string(ciphertext) + map[string]string{
		"pkmsg": "\x00prekey", "msg": "\x00normal", "skmsg": "\x00senderkey\x00" + from.String(),
	}[enc.AttrGetter().String("type")] + "\x00" + sender.String() + "\x00\x00"
	return sha256.Sum256([]byte(whole))
}

func (o *otherVersion) GetBufferedEvent(ctx context.Context, hash [32]byte) (*store.BufferedEvent, error) {
	return o.EventBuffer.GetBufferedEvent(ctx, o.name(ctx, hash))
}

func (o *otherVersion) PutBufferedEvent(ctx context.Context, hash [32]byte, plaintext []byte, at time.Time) error {
	return o.EventBuffer.PutBufferedEvent(ctx, o.name(ctx, hash), plaintext, at)
}

func (o *otherVersion) ClearBufferedEventPlaintext(ctx context.Context, hash [32]byte) error {
	return o.EventBuffer.ClearBufferedEventPlaintext(ctx, o.name(ctx, hash))
}

// A rolling deploy brings another whatsmeow, and is rolled back: what was decrypted
// and not handled under the one is found under the other, although the two name it
// differently. Decrypted again, it would fail as an old counter and be acknowledged.
func TestUpgradeOfWhatsmeowAndWayBackLoseNothing(t *testing.T) {
	as := func(n *tended) *tended { return n }
	for name, versions := range map[string][2]func(*tended) *tended{
		"there": {as, (*tended).inOtherVersion},
		"back":  {(*tended).inOtherVersion, as},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				w.tended("p", stability.WithAutoHeal(noHeal)).run().pair().stop()
				a := versions[0](w.tended("a", stability.WithAutoHeal(noHeal)))
				a.refuse = func(e *events.Message) bool { return strings.HasPrefix(e.Message.GetConversation(), "later") }
				a.run().ready()
				bob := w.peer()
				group := w.sim.NewGroup("team", w.account, bob.Account())
				send := func(s string) {
					_, err := bob.SendMessage(t.Context(), w.account.JID(), text(s))
					require.NoError(t, err)
					_, err = bob.SendMessage(t.Context(), group.JID(), text(s+", all")) // the first has two parts
					require.NoError(t, err)
				}
				send("later, one")
				send("later, two")
				time.Sleep(time.Minute)
				require.Len(t, w.device().Pending(), 4)
				send("done")
				w.await("the last is acknowledged", func() bool { return len(w.device().Pending()) == 4 })
				a.crash()

				b := versions[1](w.tended("b", stability.WithAutoHeal(noHeal))).run().ready()
				time.Sleep(5 * time.Minute)
				r := b.balanced()
				got := slices.DeleteFunc(b.texts(), func(s string) bool { return s == "" })
				require.ElementsMatch(t, []string{"later, one", "later, one, all", "later, two", "later, two, all"}, got)
				require.Zero(t, r.Waiting.Count+r.SetAside.Count, "%+v", b.m.Messages())
				require.Zero(t, r.PerhapsHandled.Count)
				require.Empty(t, w.device().Pending())
				for _, n := range []*tended{a, b} {
					if n.otherNames != nil {
						require.Positive(t, n.otherNames.Load())
					}
				}
				b.stop()
			})
		})
	}
}
