package authstore

import (
	"context"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// callAll calls every method that whatsmeow knows of a store, with an argument
// that is not empty, and gives the error of each.
func callAll(s *deviceStore) map[string]error {
	argument := func(t reflect.Type) reflect.Value {
		switch t {
		case reflect.TypeFor[context.Context]():
			return reflect.ValueOf(bg)
		case reflect.TypeFor[types.JID]():
			return reflect.ValueOf(testJID(5))
		case reflect.TypeFor[string]():
			return reflect.ValueOf("1:0")
		case reflect.TypeFor[[]byte]():
			return reflect.ValueOf([]byte{1})
		case reflect.TypeFor[uint32]():
			return reflect.ValueOf(uint32(1))
		case reflect.TypeFor[func(context.Context) error]():
			return reflect.ValueOf(func(context.Context) error { return nil })
		}
		switch t.Kind() {
		case reflect.Slice:
			v := reflect.MakeSlice(t, 1, 1)
			if t.Elem() == reflect.TypeFor[string]() {
				v.Index(0).SetString("1:0")
			}
			return v
		case reflect.Map:
			v := reflect.MakeMap(t)
			v.SetMapIndex(reflect.Zero(t.Key()), reflect.Zero(t.Elem()))
			return v
		}
		return reflect.Zero(t)
	}
	out := make(map[string]error)
	self := reflect.ValueOf(s)
	for _, stores := range []reflect.Type{
		reflect.TypeFor[store.AllStores](), reflect.TypeFor[newestAppStateSyncKeyStore](), reflect.TypeFor[newestPrivacyTokenStore](),
		reflect.TypeFor[newestNCTSaltStore](), reflect.TypeFor[newestEventBuffer](),
	} {
		for i := range stores.NumMethod() {
			m := self.MethodByName(stores.Method(i).Name)
			var args []reflect.Value
			for j := range m.Type().NumIn() {
				args = append(args, argument(m.Type().In(j)))
			}
			switch stores.Method(i).Name {
			case "PutLIDMapping", "GetPNForLID":
				args[1] = reflect.ValueOf(types.NewJID("905", types.HiddenUserServer))
			}
			call := m.Call
			if m.Type().IsVariadic() {
				call = m.CallSlice
			}
			answer := call(args)
			err, _ := answer[len(answer)-1].Interface().(error)
			out[stores.Method(i).Name] = err
		}
	}
	return out
}

// An answer from a device that is over, be it "nothing of that name", would be
// taken for the truth: a message would be decrypted again, or acknowledged.
func TestEveryMethodOfAnEndedDeviceSaysSo(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	require.NoError(t, c.EndTerm(bg))
	commits := kv.commits.Load()
	errs := callAll(storeOf(d))
	require.Greater(t, len(errs), 50)
	for name, err := range errs {
		require.ErrorIs(t, err, context.Canceled, name)
		require.Regexp(t, `^authstore: [a-z]`, err.Error(), name)
		require.ErrorIs(t, err, ErrSuperseded, name)
	}
	require.Equal(t, commits, kv.commits.Load())
}

// A write before a device was saved has no place, and a read finds
// nothing.
func TestEveryMethodOfADeviceThatWasNeverSavedSaysSo(t *testing.T) {
	kv := newMapKV()
	c := New(kv)
	defer c.Close(bg)
	d, err := c.Device(bg, newFence(1))
	require.NoError(t, err)
	require.Nil(t, d.ID)
	for name, err := range callAll(d.Container.(*deviceStore)) {
		switch name {
		case "GetLIDForPN", "GetManyLIDsForPNs", "GetPNForLID":
			continue // the map is the account's
		}
		require.ErrorIs(t, err, ErrNotSaved, name)
	}
	require.Empty(t, kv.data)
}
