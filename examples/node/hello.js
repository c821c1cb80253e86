/** A service, an event and a request, with no Python in sight: `npm install`, `node hello.js`. */

import { Bus, ServiceError } from "./ipc.js";

const bus = await Bus.open("hello");

await bus.serve("greeter", "1.0.0", {
  "hello.Greet"({ name }) {
    if (!name) throw new ServiceError(400, "nobody to greet");
    bus.publish("hello.Greeted", { name });
    return { text: `hello, ${name}` };
  },
});
bus.on("hello.Greeted", (event) => console.log("greeted:", event.name, "by", event.$source));

const { text } = await bus.request("hello.Greet", { name: "Ada" });
console.log("answer:", text);

try {
  await bus.request("hello.Greet", { name: "" });
} catch (error) {
  console.log("error:", error.code, error.message);
}

await bus.close();
