package firestorebackend

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"time"

	"cloud.google.com/go/firestore"

	"github.com/wastability/wastability/reconnect"
)

// stateStore implements reconnect.StateStore: one document with a field for
// each field of State, instants as timestamps.
type stateStore struct{ b *backend }

var _ reconnect.StateStore = stateStore{}

// extra holds the fields that a newer library of the same format has and this
// one does not know, as JSON texts: so nothing of them is lost, whatever they
// are.
const extra = "extra"

// Load implements reconnect.StateStore.
func (s stateStore) Load(ctx context.Context) (reconnect.State, error) {
	const op = "load the state"
	b := s.b
	st := b.stamp()
	snaps, err := b.get(ctx, laneState, op, b.stateDoc)
	if err != nil {
		return reconnect.State{}, err
	}
	state, err := stateOf(snaps[0])
	b.mu.Lock()
	if st.w != nil && st.w == b.writer {
		st.w.stateOK = err == nil
	}
	b.mu.Unlock()
	if err != nil {
		return reconnect.State{}, fmt.Errorf("firestorebackend: %s: %w", op, err)
	}
	return state, nil
}

// Save is one request. The first one of a term reads what it replaces: a state
// of a newer format stays.
func (s stateStore) Save(ctx context.Context, epoch int64, state reconnect.State) error {
	const op = "save the state"
	b := s.b
	doc, err := stateFields(state)
	if err != nil {
		return fmt.Errorf("firestorebackend: %s: %w", op, err)
	}
	if err := b.enter(ctx, op); err != nil {
		return err
	}
	return b.underFence(ctx, laneState, op, epoch, func(ctx context.Context, w *writer) (func(*firestore.WriteBatch), error) {
		b.mu.Lock()
		known := w.stateOK
		b.mu.Unlock()
		if !known {
			snaps, err := b.get(ctx, laneState, op, b.stateDoc)
			if err != nil {
				return nil, err
			}
			if _, err := stateOf(snaps[0]); err != nil {
				return nil, fmt.Errorf("firestorebackend: %s: write over the old state: %w", op, err)
			}
			b.mu.Lock()
			w.stateOK = true
			b.mu.Unlock()
		}
		return func(batch *firestore.WriteBatch) { batch.Set(b.stateDoc, doc) }, nil
	}, func(*writer) {})
}

// stateFields makes the document. The codec of package reconnect decides what
// is in it.
func stateFields(s reconnect.State) (map[string]any, error) {
	unknown := s.Unknown
	s.Unknown = nil
	data, err := reconnect.EncodeState(s)
	if err != nil {
		return nil, err
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, err
	}
	doc := make(map[string]any, len(raw)+1)
	for name, v := range raw {
		kind := stateKinds()[name]
		if kind == nil {
			return nil, fmt.Errorf("the field %s is not known", name)
		}
		// Through its Go type, so that an instant becomes a timestamp.
		p := reflect.New(kind)
		if err := json.Unmarshal(v, p.Interface()); err != nil {
			return nil, err
		}
		doc[name] = plain(p.Elem())
	}
	if len(unknown) > 0 {
		texts := make(map[string]any, len(unknown))
		for name, v := range unknown {
			if stateKinds()[name] == nil {
				texts[mapKey(name)] = string(v)
			}
		}
		doc[extra] = texts
	}
	return doc, nil
}

// stateKinds are the types of State's fields by their names in JSON.
func stateKinds() map[string]reflect.Type {
	out := make(map[string]reflect.Type)
	for _, f := range reflect.VisibleFields(reflect.TypeFor[reconnect.State]()) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
			out[name] = f.Type
		}
	}
	return out
}

// plain is v as Firestore takes it.
func plain(v reflect.Value) any {
	switch x := v.Interface().(type) {
	case time.Time:
		return x.Truncate(time.Microsecond)
	case []time.Time:
		out := make([]any, len(x))
		for i := range x {
			out[i] = x[i].Truncate(time.Microsecond)
		}
		return out
	}
	switch v.Kind() {
	case reflect.Slice:
		out := make([]any, v.Len())
		for i := range out {
			out[i] = plain(v.Index(i))
		}
		return out
	case reflect.Struct:
		out := map[string]any{}
		for _, f := range reflect.VisibleFields(v.Type()) {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if x := v.FieldByIndex(f.Index); !x.IsZero() {
				out[name] = plain(x)
			}
		}
		return out
	case reflect.String:
		return strings.ToValidUTF8(v.String(), "\uFFFD")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return v.Int()
	}
	return v.Interface()
}

// stateOf reads the document. None is the zero State.
func stateOf(s *firestore.DocumentSnapshot) (reconnect.State, error) {
	if !s.Exists() {
		return reconnect.State{}, nil
	}
	m := maps.Clone(s.Data())
	texts, _ := m[extra].(map[string]any)
	delete(m, extra)
	raw := make(map[string]any, len(m)+len(texts))
	for name, v := range texts {
		text, ok := v.(string)
		name, ok2 := unescape(name)
		if !ok || !ok2 || !json.Valid([]byte(text)) {
			return reconnect.State{}, fmt.Errorf("%w: the state: %s.%s is no JSON", ErrDamaged, extra, name)
		}
		raw[name] = json.RawMessage(text)
	}
	maps.Copy(raw, m)
	data, err := json.Marshal(raw)
	if err != nil {
		return reconnect.State{}, fmt.Errorf("%w: the state: %w", ErrDamaged, err)
	}
	return reconnect.DecodeState(data)
}

// mapKey is any text as the name of a field in a map: Firestore takes neither
// an empty one nor __x__. Text that Firestore takes stays, even where escape would change it.
func mapKey(s string) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "%", "%25")
	switch {
	case s == "":
		return "%"
	case reserved(s):
		return "%5F" + s[1:]
	}
	return s
}

func fromMapKey(s string) string {
	if s == "%" {
		return ""
	}
	if id, ok := unescape(s); ok {
		return id
	}
	return s
}
