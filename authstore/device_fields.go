package authstore

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
)

// Fields of store.Device that came after this library was written are kept by
// name, as JSON; protobuf messages as their own encoding. A field that this
// whatsmeow does not have, or has with another type, stays as it was stored: an
// instance with another version may need it.

// knownFields are the fields of store.Device that savedDevice names, or that
// are no data. Deleted is whatsmeow's mark on a device in memory whose life is
// over: the account's record says what is deleted.
func knownFields() []string {
	return []string{"Log", "NoiseKey", "IdentityKey", "SignedPreKey", "RegistrationID", "AdvSecretKey", "ID", "LID", "Account",
		"Platform", "BusinessName", "PushName", "LIDMigrationTimestamp", "FacebookUUID", "Initialized", "Deleted"}
}

// eachUnknownField visits the other exported fields of the struct at d, except
// those that hold no data: stores, functions, channels.
func eachUnknownField(d any, visit func(name string, f reflect.Value)) {
	v := reflect.ValueOf(d).Elem()
	known := knownFields()
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if !field.IsExported() || slices.Contains(known, field.Name) {
			continue
		}
		switch field.Type.Kind() {
		case reflect.Interface, reflect.Func, reflect.Chan, reflect.UnsafePointer:
		default:
			visit(field.Name, v.Field(i))
		}
	}
}

// saveUnknownFields gives what is to be stored for d in place of before.
func saveUnknownFields(d any, before map[string]json.RawMessage) map[string]json.RawMessage {
	more := maps.Clone(before)
	if more == nil {
		more = make(map[string]json.RawMessage)
	}
	eachUnknownField(d, func(name string, f reflect.Value) {
		if f.IsZero() {
			// Empty, unless it is so because it could not be loaded.
			if old, ok := more[name]; ok && loadField(old, reflect.New(f.Type()).Elem()) == nil {
				delete(more, name)
			}
			return
		}
		if b, err := saveField(f); err == nil {
			more[name] = b
		}
	})
	return more
}

// loadUnknownFields fills in what it can. A field of another type stays empty.
func loadUnknownFields(d any, more map[string]json.RawMessage) {
	eachUnknownField(d, func(name string, f reflect.Value) {
		if raw, ok := more[name]; ok {
			if loadField(raw, f) != nil {
				f.SetZero()
			}
		}
	})
}

// unsavable names the fields of d that would not come back as they are.
func unsavable(d any) (names []string) {
	eachUnknownField(d, func(name string, f reflect.Value) {
		back := reflect.New(f.Type()).Elem()
		b, err := saveField(f)
		if err == nil {
			err = loadField(b, back)
		}
		if err != nil || !sameField(f, back) {
			names = append(names, name)
		}
	})
	return names
}

func sameField(a, b reflect.Value) bool {
	if m, ok := a.Interface().(proto.Message); ok {
		return proto.Equal(m, b.Interface().(proto.Message))
	}
	if at, ok := a.Interface().(time.Time); ok {
		return at.Equal(b.Interface().(time.Time))
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

func saveField(f reflect.Value) (json.RawMessage, error) {
	if m, ok := f.Interface().(proto.Message); ok && !f.IsZero() {
		b, err := proto.Marshal(m)
		if err != nil {
			return nil, err
		}
		return json.Marshal(b)
	}
	return json.Marshal(f.Interface())
}

func loadField(raw json.RawMessage, f reflect.Value) error {
	if _, ok := f.Interface().(proto.Message); ok && f.Kind() == reflect.Pointer {
		var b []byte
		if err := json.Unmarshal(raw, &b); err != nil || b == nil {
			return err
		}
		f.Set(reflect.New(f.Type().Elem()))
		return proto.Unmarshal(b, f.Interface().(proto.Message))
	}
	return json.Unmarshal(raw, f.Addr().Interface())
}

// warnUnsavable says once a term which fields of a newer whatsmeow's Device
// this library cannot keep.
func (s *deviceStore) warnUnsavable(d any) {
	if names := unsavable(d); len(names) > 0 {
		s.warned.Do(func() {
			s.cfg.log.Warn("this version of whatsmeow has fields of a device that cannot be stored: update wastability", "fields", names)
		})
	}
}
