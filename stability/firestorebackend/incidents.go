package firestorebackend

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
	"unicode/utf8"

	"cloud.google.com/go/firestore"

	"github.com/wastability/wastability/guard"
)

// incidentStore implements guard.IncidentStore: a document for each incident,
// under its id.
type incidentStore struct{ b *backend }

var _ guard.IncidentStore = incidentStore{}

// doc is where an incident stands. The ids of this library are used as they
// are; of others only what Firestore does not take is changed.
func (s incidentStore) doc(id string) *firestore.DocumentRef {
	var name strings.Builder
	for i, r := range id {
		switch {
		case r == '/' || r == '%' || r == utf8.RuneError && !strings.HasPrefix(id[i:], "\uFFFD"):
			fmt.Fprintf(&name, "%%%02X", id[i])
		default:
			name.WriteRune(r)
		}
	}
	n := name.String()
	switch {
	case n == "." || n == "..":
		n = strings.ReplaceAll(n, ".", "%2E")
	case reserved(n):
		n = "%5F" + n[1:]
	case len(n) > 1000:
		n = hashed(id)
	}
	return s.b.incidents.Doc(n)
}

// Raise implements guard.IncidentStore.
func (s incidentStore) Raise(ctx context.Context, inc guard.Incident) (stored guard.Incident, opened bool, err error) {
	const op = "raise an incident"
	if err := s.b.enter(ctx, op); err != nil {
		return guard.Incident{}, false, err
	}
	if inc.ID == "" {
		return guard.Incident{}, false, fmt.Errorf("firestorebackend: %s: %w", op, guard.ErrNoID)
	}
	err = s.change(ctx, op, inc.ID, func(prev guard.Incident) (_ guard.Incident, write, turned bool) {
		stored, opened = guard.Raised(prev, inc)
		return stored, true, opened
	})
	if err != nil {
		return guard.Incident{}, false, err
	}
	return stored, opened, nil
}

// Resolve implements guard.IncidentStore.
func (s incidentStore) Resolve(ctx context.Context, id string, at time.Time) (closed bool, err error) {
	const op = "resolve an incident"
	if err := s.b.enter(ctx, op); err != nil || id == "" {
		return false, err
	}
	err = s.change(ctx, op, id, func(prev guard.Incident) (next guard.Incident, write, turned bool) {
		next, closed = guard.Resolved(prev, at)
		return next, closed, closed
	})
	return closed && err == nil, err
}

// change replaces an incident on condition that it is as it was read. turned
// says that it is opened or closed by that: then a nonce stays in the document
// until it turns again, which tells afterwards that a write whose reply was
// lost has landed, even if others have refreshed the incident since. The writer that
// opened an incident is told so once.
func (s incidentStore) change(ctx context.Context, op, id string, f func(prev guard.Incident) (next guard.Incident, write, turned bool)) error {
	b := s.b
	ref := s.doc(id)
	nonce := rand.Text()
	var unsure bool // a write that turns it has failed
	pause := pauses()
	for n := 1; ; n++ {
		snaps, err := b.get(ctx, laneIncidents, op, ref)
		if err != nil {
			return err
		}
		prev, turnedBy, err := incidentOf(snaps[0])
		if err != nil {
			return fmt.Errorf("firestorebackend: %s: %w", op, err)
		}
		if unsure && turnedBy == nonce {
			return nil // f's last answer is what landed
		}
		next, write, turned := f(prev)
		if !write {
			return nil
		}
		if turned {
			unsure, turnedBy = true, nonce
		}
		err = b.write(ctx, laneIncidents, op, func(ctx context.Context) error {
			return s.write(ctx, ref, snaps[0], s.fields(next, turnedBy))
		})
		if err == nil {
			return nil
		}
		limit := tries
		if lostRace(err) {
			limit = contenders
		}
		if hopeless(err) || ctx.Err() != nil || n >= limit || !pause(ctx) {
			return err
		}
	}
}

func (s incidentStore) write(ctx context.Context, ref *firestore.DocumentRef, prev *firestore.DocumentSnapshot, fields map[string]any) error {
	if prev.Exists() {
		_, err := ref.Update(ctx, updates(fields), firestore.LastUpdateTime(prev.UpdateTime))
		return err
	}
	maps.DeleteFunc(fields, func(_ string, v any) bool { return v == firestore.Delete })
	_, err := ref.Create(ctx, fields)
	return err
}

// contenders bounds how often a change is tried that others keep getting ahead
// of.
const contenders = 64

// fields are all fields of the document; fields that are not there are
// deleted.
func (s incidentStore) fields(inc guard.Incident, turnedBy string) map[string]any {
	valid := func(t string) string { return strings.ToValidUTF8(t, "\uFFFD") }
	text := func(t string) any {
		if t == "" {
			return firestore.Delete
		}
		return valid(t)
	}
	instant := func(t time.Time) any {
		if t.IsZero() {
			return firestore.Delete
		}
		return t.Truncate(time.Microsecond)
	}
	m := map[string]any{
		"version": guard.RecordVersion, "turnedBy": turnedBy, "id": valid(inc.ID), "type": valid(string(inc.Type)), "active": inc.Active,
		"instanceId": text(inc.InstanceID), "instructions": text(inc.Instructions), "runbook": text(inc.Runbook),
		"detectedAt": instant(inc.DetectedAt), "firstDetectedAt": instant(inc.FirstDetectedAt),
		"lastCheckedAt": instant(inc.LastCheckedAt), "resolvedAt": instant(inc.ResolvedAt),
		"evidence": firestore.Delete, "expireAt": firestore.Delete, "updatedAt": firestore.ServerTimestamp,
	}
	if len(inc.Evidence) > 0 {
		evidence := make(map[string]any, len(inc.Evidence))
		for name, v := range inc.Evidence {
			evidence[mapKey(name)] = valid(v)
		}
		m["evidence"] = evidence
	}
	if !inc.ResolvedAt.IsZero() {
		m["expireAt"] = inc.ResolvedAt.Add(s.b.retention).Truncate(time.Microsecond)
	}
	return m
}

// incidentOf reads a document. None is the zero Incident.
func incidentOf(s *firestore.DocumentSnapshot) (inc guard.Incident, turnedBy string, err error) {
	if !s.Exists() {
		return guard.Incident{}, "", nil
	}
	f := fieldsOf(s)
	if v := f.number("version"); f.err != nil || v <= 0 {
		return guard.Incident{}, "", fmt.Errorf("%w: the incident %s has no version", ErrDamaged, s.Ref.ID)
	} else if v > guard.RecordVersion {
		return guard.Incident{}, "", fmt.Errorf("the incident %s has format %d: %w", s.Ref.ID, v, guard.ErrNewerFormat)
	}
	inc = guard.Incident{
		ID: f.text("id"), Type: guard.Type(f.text("type")), Active: f.flag("active"), InstanceID: f.text("instanceId"),
		DetectedAt: f.instant("detectedAt"), FirstDetectedAt: f.instant("firstDetectedAt"),
		LastCheckedAt: f.instant("lastCheckedAt"), ResolvedAt: f.instant("resolvedAt"),
		Instructions: f.text("instructions"), Runbook: f.text("runbook"),
	}
	for name := range field[map[string]any](f, "evidence") {
		if inc.Evidence == nil {
			inc.Evidence = make(map[string]string)
		}
		e := &fields{name: f.name, m: field[map[string]any](f, "evidence")}
		inc.Evidence[fromMapKey(name)] = e.text(name)
		f.err = errors.Join(f.err, e.err)
	}
	return inc, f.text("turnedBy"), f.err
}

// List implements guard.IncidentStore.
func (s incidentStore) List(ctx context.Context) ([]guard.Incident, error) {
	const op = "list incidents"
	docs, err := s.b.list(ctx, laneIncidents, op, s.b.incidents.Query)
	if err != nil {
		return nil, err
	}
	var out []guard.Incident
	var problems []error
	for _, d := range docs {
		inc, _, err := incidentOf(d)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		out = append(out, inc)
	}
	guard.Sort(out)
	if len(problems) > 0 {
		return out, fmt.Errorf("firestorebackend: %s: %w", op, errors.Join(problems...))
	}
	return out, nil
}
