package postgresbackend

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/guard"
)

// incidentStore implements guard.IncidentStore: a row for each incident.
type incidentStore struct{ a *account }

var _ guard.IncidentStore = incidentStore{}

// row is an incident and what is kept with it.
type row struct {
	version  int
	revision int64  // +1 with every change; 0 when there is no row
	turnedBy string // nonce of the call that opened or closed it
	inc      guard.Incident
}

// Raise implements guard.IncidentStore.
func (s incidentStore) Raise(ctx context.Context, inc guard.Incident) (stored guard.Incident, opened bool, err error) {
	if inc.ID == "" {
		return guard.Incident{}, false, fmt.Errorf("postgresbackend: raise an incident: %w", guard.ErrNoID)
	}
	err = s.change(ctx, "raise an incident", inc.ID, func(prev guard.Incident) (next guard.Incident, write, turned bool) {
		stored, opened = guard.Raised(prev, inc)
		return stored, true, opened
	})
	if err != nil {
		return guard.Incident{}, false, err
	}
	return stored, opened, nil
}

// Resolve implements guard.IncidentStore. It also deletes incidents that were
// resolved longer than the retention before at.
func (s incidentStore) Resolve(ctx context.Context, id string, at time.Time) (closed bool, err error) {
	if id == "" {
		return false, nil
	}
	err = s.change(ctx, "resolve an incident", id, func(prev guard.Incident) (next guard.Incident, write, turned bool) {
		next, closed = guard.Resolved(prev, at)
		return next, closed, closed
	})
	if err != nil || !closed {
		return false, err
	}
	// Nothing depends on it: the next one sweeps as well.
	_ = s.a.do(ctx, "delete old incidents", func(ctx context.Context) error {
		_, err := s.a.db.pool.Exec(ctx, s.a.db.q.sweep, s.a.id, micros(s.a.db.retention), at)
		return err
	})
	return true, nil
}

// contenders bounds how often a change is tried that others keep getting ahead
// of.
const contenders = 64

// change replaces an incident if it is as it was read. If a reply was lost,
// the nonce in the row tells that the write has landed: the instance that
// opened or closed an incident is told so once.
func (s incidentStore) change(ctx context.Context, op, id string, f func(prev guard.Incident) (next guard.Incident, write, turned bool)) error {
	if err := s.a.db.ready(ctx); err != nil {
		return err
	}
	nonce := rand.Text()
	unsure := false // a write that turns it has failed
	for n := 1; ; n++ {
		prev, err := s.read(ctx, op, id)
		if err != nil {
			return err
		}
		if unsure && prev.turnedBy == nonce {
			return nil // f's last answer is what landed
		}
		next, write, turned := f(prev.inc)
		if !write {
			return nil
		}
		turnedBy := prev.turnedBy
		if turned {
			turnedBy = nonce
		}
		written, err := s.write(ctx, op, row{revision: prev.revision, turnedBy: turnedBy, inc: next})
		if err == nil && written {
			return nil
		}
		if err != nil && (!unclear(err) || ctx.Err() != nil || n > 2) {
			return err
		}
		unsure = unsure || turned && err != nil
		if n >= contenders {
			return fmt.Errorf("postgresbackend: %s: other instances changed it %d times meanwhile: try again", op, n)
		}
	}
}

func (s incidentStore) read(ctx context.Context, op, id string) (r row, err error) {
	var bad error
	err = s.a.do(ctx, op, func(ctx context.Context) error {
		rows, err := s.a.db.pool.Query(ctx, s.a.db.q.incident, s.a.id, escape(id))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			r, bad, err = scanRow(rows)
			if err != nil {
				return err
			}
		}
		return rows.Err()
	})
	if err == nil && bad != nil {
		err = fmt.Errorf("postgresbackend: %s: %w", op, bad)
	}
	return r, err
}

func (s incidentStore) write(ctx context.Context, op string, r row) (written bool, err error) {
	inc := r.inc
	var evidence *string
	if len(inc.Evidence) > 0 {
		text, err := json.Marshal(inc.Evidence)
		if err != nil {
			return false, fmt.Errorf("postgresbackend: %s: %w", op, err)
		}
		e := string(text)
		evidence = &e
	}
	err = s.a.do(ctx, op, func(ctx context.Context) error {
		tag, err := s.a.db.pool.Exec(ctx, s.a.db.q.change, s.a.id, escape(inc.ID), guard.RecordVersion, r.revision, r.turnedBy,
			plain(string(inc.Type)), inc.Active, plain(inc.InstanceID), instant(inc.DetectedAt), instant(inc.FirstDetectedAt),
			instant(inc.LastCheckedAt), instant(inc.ResolvedAt), evidence, plain(inc.Instructions), plain(inc.Runbook))
		written = tag.RowsAffected() == 1
		return err
	})
	return written, err
}

// List implements guard.IncidentStore.
func (s incidentStore) List(ctx context.Context) ([]guard.Incident, error) {
	const op = "list incidents"
	if err := s.a.db.ready(ctx); err != nil {
		return nil, err
	}
	var (
		out      []guard.Incident
		problems []error
	)
	err := s.a.do(ctx, op, func(ctx context.Context) error {
		out, problems = nil, nil
		rows, err := s.a.db.pool.Query(ctx, s.a.db.q.incidents, s.a.id)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			r, bad, err := scanRow(rows)
			switch {
			case err != nil:
				return err
			case bad != nil:
				problems = append(problems, bad)
			default:
				out = append(out, r.inc)
			}
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	guard.Sort(out)
	if len(problems) > 0 {
		return out, fmt.Errorf("postgresbackend: %s: %w", op, errors.Join(problems...))
	}
	return out, nil
}

// scanRow reads a row; bad is what is wrong with its content.
func scanRow(rows pgx.Rows) (r row, bad, err error) {
	var (
		id, kind                             string
		detected, first, lastCheck, resolved *time.Time
		evidence                             *string
	)
	inc := &r.inc
	err = rows.Scan(&r.version, &r.revision, &r.turnedBy, &id, &kind, &inc.Active, &inc.InstanceID, &detected, &first,
		&lastCheck, &resolved, &evidence, &inc.Instructions, &inc.Runbook)
	if err != nil {
		return row{}, nil, err
	}
	if r.version > guard.RecordVersion {
		return row{}, fmt.Errorf("the incident %s has format %d: %w", id, r.version, guard.ErrNewerFormat), nil
	}
	inc.ID, inc.Type = unescape(id), guard.Type(kind)
	inc.DetectedAt, inc.FirstDetectedAt = fromInstant(detected), fromInstant(first)
	inc.LastCheckedAt, inc.ResolvedAt = fromInstant(lastCheck), fromInstant(resolved)
	if evidence != nil {
		if err := json.Unmarshal([]byte(*evidence), &inc.Evidence); err != nil {
			return row{}, fmt.Errorf("%w: the evidence of the incident %s: %w", authstore.ErrCorrupt, id, err), nil
		}
	}
	return r, nil, nil
}
