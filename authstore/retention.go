package authstore

import (
	"context"
	"math"
	"strings"
	"time"
)

// What grows with traffic has an age at which it goes. Ages are looked at in
// three ways, and none costs a commit:
//
//   - What is in memory (tokens, finished events) is looked at when whatsmeow
//     asks that old events be deleted: with the first message of a client, and
//     then twice a day.
//   - Message secrets are read on demand, so finding old ones is a look at their
//     whole table. It happens beside everything else, a twelfth of their age
//     after the last one; the account remembers when that was.
//   - What was sent: see outgoing.go and sent.go.
//
// What is to go rides with commits that happen anyway, some at a time.

// Forever is a retention without an end.
const Forever = time.Duration(math.MaxInt64)

// Retention is how long data is kept that grows with traffic. Zero fields have
// their defaults; Forever keeps.
//
// The plaintext of a received message that no handler has finished is never
// removed by its age. The LID map and sender keys of groups have none: the one
// is two short entries for each contact and needed to find its sessions; a group
// cannot be read without the others.
type Retention struct {
	// MessageSecrets decrypt reactions, votes and edits of older messages.
	// Default 180 days. Secrets that were stored by a version that did not note
	// the time count from the first look of one that does.
	MessageSecrets time.Duration

	// PrivacyTokens were given by contacts, and are renewed by them. Default
	// 180 days. Newer versions of whatsmeow remove them earlier by themselves.
	PrivacyTokens time.Duration

	// FinishedEvents are what a message that the service delivers twice is known
	// by. Default 14 days, for which the service keeps what was not
	// acknowledged; less is not accepted.
	FinishedEvents time.Duration

	// Sent is for how long a recipient who could not decrypt a message may ask
	// for it again. Default 7 days; less than 0: nothing that is sent is kept.
	Sent time.Duration

	// SentCount is how many sent messages are kept at most. Default 10,000.
	SentCount int
}

const (
	defaultSecretAge = 180 * 24 * time.Hour
	defaultTokenAge  = 180 * 24 * time.Hour
)

func (r Retention) withDefaults() Retention {
	or := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	or(&r.MessageSecrets, defaultSecretAge)
	or(&r.PrivacyTokens, defaultTokenAge)
	or(&r.FinishedEvents, eventTTL)
	r.FinishedEvents = max(r.FinishedEvents, eventTTL)
	if r.Sent == 0 {
		r.Sent = outgoingTTL
	}
	if r.SentCount <= 0 {
		r.SentCount = outgoingMost
	}
	return r
}

// WithRetention says how long data is kept that grows with traffic.
func WithRetention(r Retention) Option { return func(c *config) { c.retention = r.withDefaults() } }

// before is the moment before which something of that age is too old. For
// Forever it is before everything.
func before(age time.Duration) time.Time {
	if age == Forever {
		return time.Unix(0, 0)
	}
	return time.Now().Add(-age)
}

const (
	// secretSweep is a single value: since when each secret has a time, and when
	// the table of secrets was last looked at.
	secretSweep = "secret_sweep"

	removeAtOnce = 32        // rows that one commit takes along
	sweepAgain   = time.Hour // after a look that failed
)

func sweepValue(noted, swept time.Time) []byte { return fieldsOf(noted.Unix(), swept.Unix()) }

func parseSweep(v []byte) (noted, swept time.Time) {
	f := fields{b: v}
	return time.Unix(f.varint(), 0), time.Unix(f.varint(), 0)
}

// sweep removes what is too old. It does no I/O by itself.
func (s *deviceStore) sweep() {
	limit := before(s.cfg.retention.PrivacyTokens).Unix()
	_ = s.update(context.Background(), "delete old privacy tokens", lazily, func(func(tableID, string) ([]byte, bool)) (changes []change) {
		s.im.each(tToken, func(id string, v []byte) {
			if t, err := parseToken(v); err == nil && t.at < limit {
				changes = append(changes, del(tToken, id))
			}
		})
		return changes
	})
	if s.sweepDue() {
		s.inBackground(func() {
			if err := s.sweepSecrets(); err != nil {
				s.cfg.log.Warn("old message secrets were not looked for, this is tried again in an hour", "error", err)
				s.mu.Lock()
				s.sweepAt = time.Now().Add(sweepAgain)
				s.mu.Unlock()
			}
		})
	}
}

// sweepDue reports whether the table of secrets is to be looked at, and notes
// that it is being done.
func (s *deviceStore) sweepDue() bool {
	age := s.cfg.retention.MessageSecrets
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if _, ok := s.im.get(tMisc, secretSweep); !ok && !s.closed && s.gen != "" {
		s.laterLocked(lazily, put(tMisc, secretSweep, sweepValue(now, now)))
	}
	if age == Forever || len(s.removals) > 0 || now.Before(s.sweepAt) {
		return false
	}
	v, _ := s.im.get(tMisc, secretSweep)
	if _, swept := parseSweep(v); now.Before(swept.Add(age / 12)) {
		return false
	}
	s.sweepAt = now.Add(age / 12)
	return true
}

// sweepSecrets looks for secrets that are too old. It never ends the term.
func (s *deviceStore) sweepSecrets() error {
	limit := before(s.cfg.retention.MessageSecrets).Unix()
	s.mu.Lock()
	v, _ := s.im.get(tMisc, secretSweep)
	s.mu.Unlock()
	noted, _ := parseSweep(v)
	unknown := noted.Unix()
	prefix := s.genOf(specOf(tSecret)) + "/"
	var answer result[[]Key]
	err := s.cfg.call(context.Background(), "delete old message secrets", func(ctx context.Context) error {
		var old []Key
		for e, err := range s.gate.kv.Scan(ctx, specOf(tSecret).kind, prefix) {
			if err != nil {
				return err
			}
			rec, err := s.cfg.codec.decode(e.Key, strings.TrimPrefix(e.Key.ID, prefix), e.Value)
			if err != nil || rec.split != nil {
				continue // whoever asks for it finds out what it is
			}
			if at, ok := secretTime(rec.data); ok && at < limit || !ok && unknown < limit {
				old = append(old, e.Key)
			}
		}
		return answer.of(old, nil)
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.removals = append(s.removals, answer.get()...)
	s.laterLocked(lazily, put(tMisc, secretSweep, sweepValue(noted, time.Now())))
	return nil
}

// takeRemovalsLocked gives what the next commit takes along, and leaves out what
// it writes itself. mu is held.
func (s *deviceStore) takeRemovalsLocked(rows map[row]struct{}) (keys []Key) {
	if len(s.removals) == 0 {
		return nil
	}
	busy := make(map[Key]struct{})
	for r := range rows {
		if r.table == tSecret {
			key, _, _ := s.keyOf(r)
			busy[key] = struct{}{}
			if old, ok := s.oldKeyOf(r); ok {
				busy[old] = struct{}{}
			}
		}
	}
	n := min(len(s.removals), removeAtOnce)
	for _, k := range s.removals[:n] {
		if _, ok := busy[k]; !ok && s.asides[k] == nil {
			keys = append(keys, k)
		}
	}
	s.removals = s.removals[n:]
	return keys
}

// secretTime is when a stored secret was written, if that was noted.
func secretTime(v []byte) (unix int64, ok bool) {
	f := fields{b: v}
	for range 4 {
		f.bytes()
	}
	if f.err != nil || len(f.b) == 0 {
		return 0, false
	}
	unix = f.varint()
	return unix, f.err == nil
}

// countsLocked are how many entries there are of each kind that is in memory.
func (s *deviceStore) countsLocked() map[Kind]int {
	out := make(map[Kind]int)
	for t := range numTables {
		sp := s.im.specs[t]
		if sp.lazy {
			continue
		}
		n := len(s.im.flat[t])
		for _, bucket := range s.im.packed[t] {
			n += len(bucket)
		}
		if n > 0 {
			out[sp.kind] = n
		}
	}
	if n := out["lid"]; n > 0 {
		out["lid"] = n / 2 // each stands there in both directions
	}
	return out
}
