package stability

import (
	"reflect"
	"runtime"
	"strings"

	"go.mau.fi/whatsmeow"
)

// keepSent lets newer versions of whatsmeow keep what is sent in the store, so
// that a recipient who could not decrypt it gets it again after a restart or a
// hand-over too. whatsmeow does not ask a host's GetMessageForRetry then: a
// host that has one keeps it. Older versions lack the field.
func keepSent(c *whatsmeow.Client) { keepSentIn(reflect.ValueOf(c)) }

func keepSentIn(client reflect.Value) {
	field := client.Elem().FieldByName("UseRetryMessageStore")
	if !field.IsValid() || field.Kind() != reflect.Bool || !field.CanSet() {
		return
	}
	if on := !hasOwn(client.Elem().FieldByName("GetMessageForRetry")); field.Bool() != on {
		field.SetBool(on)
	}
}

// hasOwn reports whether a callback was set by a host: whatsmeow sets one that
// finds nothing.
func hasOwn(callback reflect.Value) bool {
	if !callback.IsValid() || callback.Kind() != reflect.Func || callback.IsNil() {
		return false
	}
	f := runtime.FuncForPC(callback.Pointer())
	return f == nil || !strings.HasPrefix(f.Name(), "go.mau.fi/whatsmeow.NewClient.")
}
