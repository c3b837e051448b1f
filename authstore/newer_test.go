package authstore

import (
	"bytes"
	"context"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// A look at a whole table finds old rows. What is newer than what the look has read
// stays: written before it and not durable yet, while it was under way, or when it was over
// and what it found was not removed yet.
func TestLookAtOldRowsLeavesWhatIsNewer(t *testing.T) {
	keeper := func(d *store.Device) *deviceStore { return storeOf(d) }
	kinds := map[string]struct {
		kind Kind
		put  func(t *testing.T, d *store.Device, text string)
		get  func(t *testing.T, d *store.Device) string
		look func(d *store.Device) error
	}{
		"an outgoing event": {
			kind: specOf(tOutgoing).kind,
			put: func(t *testing.T, d *store.Device, text string) {
				require.NoError(t, keeper(d).AddOutgoingEvent(bg, testJID(2), "ID", "other", []byte(text)))
			},
			get: func(t *testing.T, d *store.Device) string {
				_, text, err := keeper(d).GetOutgoingEvent(bg, testJID(2), types.EmptyJID, "ID")
				require.NoError(t, err)
				return string(text)
			},
			look: func(d *store.Device) error { return keeper(d).deleteOldOutgoing("test") },
		},
		"a sent message": {
			kind: specOf(tOutgoing).kind,
			put: func(t *testing.T, d *store.Device, text string) {
				s := keeper(d)
				require.NoError(t, s.KeepSent(bg, testJID(2), "ID", []byte(text)))
				s.mu.Lock()
				s.packLocked(true)
				s.armLocked(soon)
				s.mu.Unlock()
			},
			get: func(t *testing.T, d *store.Device) string {
				text, err := keeper(d).Sent(bg, testJID(2), types.EmptyJID, "ID")
				require.NoError(t, err)
				return string(text)
			},
			look: func(d *store.Device) error { return keeper(d).deleteOldOutgoing("test") },
		},
		"a sender key": {
			kind: specOf(tSenderKey).kind,
			put: func(t *testing.T, d *store.Device, text string) {
				require.NoError(t, d.SenderKeys.PutSenderKey(bg, "1@g.us", "1:0", validSenderKey([]byte(text))))
			},
			get: func(t *testing.T, d *store.Device) string {
				key, err := d.SenderKeys.GetSenderKey(bg, "1@g.us", "1:0")
				require.NoError(t, err)
				for _, text := range []string{"old", "new"} {
					if bytes.Equal(key, validSenderKey([]byte(text))) {
						return text
					}
				}
				return ""
			},
			look: func(d *store.Device) error { keeper(d).sweep(); return nil },
		},
	}
	for name, k := range kinds {
		for _, when := range []string{"before the look", "during the look", "after the look"} {
			for _, again := range []bool{false, true} { // by the term that wrote the old one, and by the next
				t.Run(name+" "+when+map[bool]string{true: " of another term"}[again], func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						kv := &afterScan{mapKV: newMapKV(), kind: k.kind}
						begin := func() (*Container, *store.Device) {
							c := New(kv)
							d, err := c.Device(bg, newFence(kv.epoch))
							require.NoError(t, err)
							return c, d
						}
						c, d := begin()
						pair(t, d, testJID(1))
						tend(t, d)
						next := func() {
							require.NoError(t, c.Close(bg))
							kv.setEpoch(kv.epoch + 1)
							c, d = begin()
						}
						k.put(t, d, "old")
						time.Sleep(200 * aDay)
						if again {
							next()
						}
						write := func() { k.put(t, d, "new") }
						switch when {
						case "before the look":
							write()
						case "during the look":
							kv.during.Store(&write)
						}
						require.NoError(t, k.look(d))
						synctest.Wait()
						if when == "after the look" { // and before a commit takes along what goes
							write()
						}
						require.Nil(t, kv.during.Load(), "it was looked at")
						for range 2 {
							require.Equal(t, "new", k.get(t, d))
							time.Sleep(time.Minute)
							goOn(t, kv.mapKV, d, 3)
							require.Equal(t, "new", k.get(t, d))
							next()
						}
						require.NoError(t, c.Close(bg))
					})
				})
			}
		}
	}
}

// However a device ends, what it had deferred of what is the account's (the LID map,
// the book of messages) is there for the device that follows.
func TestHoweverADeviceEndsTheAccountKeepsItsOwn(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, c *Container, d *store.Device, f *testFence) error{
		"the next device": func(_ *testing.T, c *Container, _ *store.Device, f *testFence) error {
			return second(c.Device(bg, f))
		},
		"a device of the next term": func(_ *testing.T, c *Container, _ *store.Device, f *testFence) error {
			return second(c.Device(bg, newFence(f.epoch+1))) // and nobody has written in that term yet
		},
		"the end of the term": func(_ *testing.T, c *Container, _ *store.Device, _ *testFence) error { return c.EndTerm(bg) },
		"Close":               func(_ *testing.T, c *Container, _ *store.Device, _ *testFence) error { return c.Close(bg) },
		"its deletion":        func(_ *testing.T, _ *Container, d *store.Device, _ *testFence) error { return d.Delete(bg) },
		"an import": func(t *testing.T, c *Container, _ *store.Device, f *testFence) error {
			from, ff := source(t)
			return second(Import(bg, FromKV("old", from, ff), c, f, ReplaceDevice()))
		},
		"an archive": func(t *testing.T, c *Container, _ *store.Device, f *testFence) error {
			from, ff := source(t)
			var b bytes.Buffer
			require.NoError(t, second(Export(bg, FromKV("old", from, ff), &b, archiveKey)))
			return second(Restore(bg, &b, archiveKey, c, f, ReplaceDevice()))
		},
		"another JID": func(_ *testing.T, _ *Container, d *store.Device, _ *testFence) error {
			jid := testJID(8)
			d.ID = &jid
			return d.Save(bg)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				c, d, f := open(t, kv)
				pn, lid := types.NewJID("1777", types.DefaultUserServer), types.NewJID("9777", types.HiddenUserServer)
				require.NoError(t, d.LIDs.PutLIDMapping(bg, lid, pn))
				require.NoError(t, c.PutMessageEntry(bg, "ID", []byte("entry"), false))
				require.Zero(t, kv.count("lid")+kv.count("message"), "not written yet")
				require.NoError(t, end(t, c, d, f))
				_ = c.Close(bg)
				kv.setEpoch(kv.epoch + 1)
				c, d, _ = open(t, kv)
				got, err := d.LIDs.GetLIDForPN(bg, pn)
				require.NoError(t, err)
				require.Equal(t, lid, got)
				entries, err := c.MessageEntries(bg)
				require.NoError(t, err)
				require.Contains(t, entries, "ID")
				require.NoError(t, c.Close(bg))
			})
		})
	}
}

// Whoever has everything written that was deferred is told when it was not, however
// the commits fail one after the other: refused for good, which is an incident for
// each row, or at the end of the term.
func TestFlushThatWritesNothingSaysSo(t *testing.T) {
	ways := map[string]func(c *Container) error{
		"EndTerm": func(c *Container) error { return c.EndTerm(bg) },
		"Close":   func(c *Container) error { return c.Close(bg) },
		"Export": func(c *Container) error {
			return second(Export(bg, FromContainer(c), new(bytes.Buffer), archiveKey))
		},
	}
	answers := []error{nil, ErrTooLarge, ErrFenced}
	const length = 4
	for way, flush := range ways {
		for n := range 81 { // 3 to the 4th
			var seq [length]error
			for i, rest := 0, n; i < length; i, rest = i+1, rest/3 {
				seq[i] = answers[rest%3]
			}
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				refused := make(map[Kind]bool)
				c, d, _ := open(t, kv, WithOnIncident(func(i Incident) { refused[i.Row] = true }))
				require.NoError(t, storeOf(d).flush("test"))
				require.NoError(t, d.LIDs.PutLIDMapping(bg, types.NewJID("9777", types.HiddenUserServer), types.NewJID("1777", types.DefaultUserServer)))
				require.NoError(t, second2(d.Contacts.PutPushName(bg, testJID(2), "name")))
				commits := 0
				kv.before.set(func(op string, _ Batch) error {
					if op != "commit" {
						return nil
					}
					if commits++; commits > length {
						return nil
					}
					return seq[commits-1]
				})
				err := flush(c)
				for _, kind := range []Kind{specOf(tLID).kind, specOf(tContact).kind} {
					if kv.count(kind) == 0 && !refused[kind] {
						require.Error(t, err, "%s, %v: %s", way, seq, kind)
					}
				}
				kv.before.set(nil)
			})
		}
	}
}

func second2[T, U any](_ T, _ U, err error) error { return err }

// orderedKV gives the rows of a scan in the order of their names, or the other way
// round.
type orderedKV struct {
	*mapKV
	backwards bool
}

func (k *orderedKV) Scan(ctx context.Context, kind Kind, prefix string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		rows, err := scanAll(k.mapKV.Scan(ctx, kind, prefix))
		slices.SortFunc(rows, func(a, b Entry) int { return strings.Compare(a.Key.ID, b.Key.ID) })
		if k.backwards {
			slices.Reverse(rows)
		}
		for _, e := range rows {
			if !yield(e, nil) {
				return
			}
		}
		if err != nil {
			yield(Entry{}, err)
		}
	}
}

// While rows move to sealed names one may stand under both for a moment. Its age is
// that of the younger one, whichever is read first.
func TestRowUnderTwoNamesIsAsOldAsItsYounger(t *testing.T) {
	for _, backwards := range []bool{false, true} {
		for _, a := range agings {
			t.Run(a.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					kv := &orderedKV{newMapKV(), backwards}
					seal := WithAEAD(NewAESGCM(keyOf(5)))
					c := New(kv, seal)
					f := newFence(1)
					d, err := c.Device(bg, f)
					require.NoError(t, err)
					pair(t, d, testJID(1))
					tend(t, d)
					put := func() {
						require.NoError(t, d.SenderKeys.PutSenderKey(bg, "1@g.us", "1:0", validSenderKey([]byte(time.Now().String()))))
						require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(2), "ID", []byte("secret")))
						require.NoError(t, storeOf(d).flush("test"))
					}
					kept := func() bool {
						key, err := d.SenderKeys.GetSenderKey(bg, "1@g.us", "1:0")
						require.NoError(t, err)
						secret, _, err := d.MsgSecrets.GetMessageSecret(bg, testJID(1), testJID(2), "ID")
						require.NoError(t, err)
						return map[tableID]bool{tSenderKey: key != nil, tSecret: secret != nil}[a.table]
					}
					put()
					s := storeOf(d)
					plain := make(map[Key]string)
					s.mu.Lock()
					for k := range kv.data {
						if k.Kind != specOf(a.table).kind {
							continue
						}
						raw := []byte(kv.data[k])
						rec, err := s.cfg.codec.decode(k, "", raw)
						require.NoError(t, err)
						id, hashed := keyID(rec.id)
						to := Key{k.Kind, s.gen + "/" + id}
						value, err := s.cfg.codec.encode(to, rec.id, hashed, rec.data)
						require.NoError(t, err)
						plain[to] = string(value)
					}
					s.mu.Unlock()
					require.Len(t, plain, 1)
					time.Sleep(200 * aDay)
					if a.table == tSenderKey { // a secret is written once
						put()
					}
					for k, v := range plain {
						kv.data[k] = v
					}
					require.NoError(t, s.sweepTable(a))
					goOn(t, kv.mapKV, d, 3)
					require.NoError(t, c.Close(bg))
					c = New(kv, seal)
					d, err = c.Device(bg, f)
					require.NoError(t, err)
					require.Equal(t, a.table == tSenderKey, kept())
					require.NoError(t, c.Close(bg))
				})
			})
		}
	}
}
